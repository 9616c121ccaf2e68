//! The tools as clients see them: names, schemas, descriptions. Each parses,
//! calls the service and wraps what it says; a refusal is a result that the
//! model reads, not an error of the protocol.

pub(super) mod lifecycle;
mod schema;
pub(super) mod work;

use std::sync::Arc;
use std::time::Duration;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Json;
use rmcp::model::{Implementation, ProgressNotificationParam, ServerCapabilities, ServerConfig};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler, tool_handler};
use serde::Serialize;

use super::error::Result;
use super::service::Service;

const INSTRUCTIONS: &str = "\
Disposable Linux machines. create_sandbox makes one (list_bases shows prepared ones to make it \
from, which is fastest); give wait_sec to get it running in one call. exec runs a command and \
waits for it; exec_start, exec_poll and exec_kill are for what takes longer than a minute. \
read_file, write_file, edit_file, delete_file and list_files work on its files. checkpoint_sandbox \
before something risky, restore_sandbox to go back, fork_sandbox to try several ways side by side. \
When a connection is refused, network_denials says what the network policy refused. destroy_sandbox \
when it is no longer needed: idle ones are stopped, and all are destroyed when their time is over.";

/// Between two progress notifications of a long call.
const PROGRESS: Duration = Duration::from_secs(2);

/// The longest that a call waits for a sandbox to be made.
const WAIT: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub struct Tools {
    service: Arc<Service>,
    router: ToolRouter<Self>,
}

impl Tools {
    pub fn new(service: Arc<Service>) -> Self {
        let mut router = Self::lifecycle_tools() + Self::work_tools();
        for route in router.map.values_mut() {
            schema::tidy(&mut route.attr);
        }
        Self { service, router }
    }
}

#[tool_handler(router = self.router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let mut config = ServerConfig::new(capabilities);
        config.server_info = Implementation::new("pixels-mcp", env!("CARGO_PKG_VERSION"));
        config.instructions = Some(INSTRUCTIONS.to_owned());
        config
    }
}

/// What a tool returns: structured, or a sentence that says what to do next.
type Answer<T> = std::result::Result<Json<T>, String>;

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Done {
    ok: bool,
}

fn answer<T>(outcome: Result<T>) -> Answer<T> {
    outcome.map(Json).map_err(|error| error.to_string())
}

fn done(outcome: Result<()>) -> Answer<Done> {
    answer(outcome.map(|()| Done { ok: true }))
}

/// `px-` may stand before a sandbox's name, as on the command line.
fn bare(name: &str) -> &str {
    name.strip_prefix("px-").unwrap_or(name)
}

/// Does the work, and tells a client that asked for it how long it has taken.
async fn with_progress<T>(
    context: &RequestContext<RoleServer>,
    doing: &str,
    work: impl Future<Output = T>,
) -> T {
    let Some(token) = context.meta.get_progress_token() else {
        return work.await;
    };
    let begun = tokio::time::Instant::now();
    let telling = async {
        loop {
            tokio::time::sleep(PROGRESS).await;
            let seconds = begun.elapsed().as_secs();
            let progress =
                ProgressNotificationParam::new(token.clone(), begun.elapsed().as_secs_f64())
                    .with_message(format!("{doing}: {seconds} s"));
            // A client that has gone needs no news; its call ends otherwise.
            let _ = context.peer.notify_progress(progress).await;
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = telling => unreachable!("telling never ends"),
    }
}
