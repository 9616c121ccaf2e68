//! The MCP tools: names, schemas and descriptions. Each tool parses its
//! arguments and calls the [`Service`]. An error of the service is a tool
//! result with `isError`, which the model can read, instead of a protocol
//! error.

pub(super) mod checkpoints;
pub(super) mod exec;
pub(super) mod files;
pub(super) mod lifecycle;
mod schema;

use std::sync::Arc;
use std::time::Duration;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::ToolCallContext;
use rmcp::handler::server::wrapper::Json;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    IntoContents, ProgressNotificationParam, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, tool_handler};
use serde::Serialize;
use serde_json::Value;

use super::error::{Error, Result};
use super::response::SandboxView;
use super::service::Service;
use super::truncate::{self, RESULT};
use crate::model::Size;

const INSTRUCTIONS: &str = "\
Disposable Linux machines. create_sandbox creates one, fastest from a base (see list_bases); pass \
wait_sec to return when it is running. exec runs a command and waits for it; use exec_start, \
exec_poll and exec_kill for commands that take longer than a minute. read_file, write_file, \
edit_file, delete_file and list_files work on its files. Call checkpoint_sandbox before a risky \
change, restore_sandbox to go back, fork_sandbox to try several approaches in parallel. If a \
connection fails, network_denials shows what the network policy denied. Call destroy_sandbox when \
done: idle sandboxes are stopped, and all are destroyed when they expire.";

/// Interval between progress notifications of a long call.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Time limit of a call that waits for the creation of a sandbox.
const MAX_CREATE_WAIT: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub struct Tools {
    service: Arc<Service>,
    router: ToolRouter<Self>,
}

impl Tools {
    pub fn new(service: Arc<Service>) -> Self {
        let mut router = Self::lifecycle_tools()
            + Self::checkpoint_tools()
            + Self::exec_tools()
            + Self::file_tools();
        for route in router.map.values_mut() {
            schema::simplify(&mut route.attr);
        }
        Self { service, router }
    }

    /// Waits at most `wait_sec` for the creation of a sandbox. If the client
    /// cancels the call during the wait, the unfinished sandbox is destroyed.
    async fn wait_for_create(
        &self,
        context: &RequestContext<RoleServer>,
        created: SandboxView,
        wait_sec: Option<u32>,
    ) -> Result<Json<SandboxView>> {
        let Some(seconds) = wait_sec else {
            return Ok(Json(created));
        };
        let name = &created.name;
        let limit = Duration::from_secs(seconds.into()).min(MAX_CREATE_WAIT);
        let wait = async {
            tokio::select! {
                waited = self.service.wait(name, limit) => waited,
                () = context.ct.cancelled() => Err(self.service.cancel_create(name).await),
            }
        };
        with_progress(context, "creating the sandbox", wait).await
    }
}

#[tool_handler(router = self.router)]
impl ServerHandler for Tools {
    /// Accepts sandbox names with the prefix `px-`, as the command line does.
    async fn call_tool(
        &self,
        mut request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.as_mut();
        if let Some(Value::String(name)) = arguments.and_then(|it| it.get_mut("name"))
            && let Some(bare) = name.strip_prefix("px-")
        {
            *name = bare.to_owned();
        }
        let call = ToolCallContext::new(self, request, context);
        match self.router.call(call).await {
            Ok(CallToolResponse::Complete(result)) if text_length(&result) > RESULT => {
                let max = Size(RESULT as u64);
                let error =
                    Error::invalid(format!("the result is larger than {max}: request less"));
                Ok(CallToolResult::error(error.into_contents()).into())
            }
            Err(mut error) => {
                error.message = truncate::text(error.message.into_owned()).into();
                Err(error)
            }
            response => response,
        }
    }

    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        let mut config = ServerConfig::new(capabilities);
        config.server_info = Implementation::new("pixels-mcp", env!("CARGO_PKG_VERSION"));
        config.instructions = Some(INSTRUCTIONS.to_owned());
        config
    }
}

/// Returns the length of the text, which contains the whole result as JSON.
fn text_length(result: &CallToolResult) -> usize {
    let texts = result.content.iter().filter_map(ContentBlock::as_text);
    texts.map(|content| content.text.len()).sum()
}

/// An error is returned as the text of a tool result.
impl IntoContents for Error {
    fn into_contents(self) -> Vec<ContentBlock> {
        truncate::text(self.to_string()).into_contents()
    }
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Done {
    ok: bool,
}

impl Done {
    const OK: Self = Self { ok: true };
}

/// Awaits `work`. Sends progress notifications if the client requested them.
async fn with_progress<T>(
    context: &RequestContext<RoleServer>,
    action: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<Json<T>> {
    let Some(token) = context.meta.get_progress_token() else {
        return work.await.map(Json);
    };
    let started = tokio::time::Instant::now();
    let notify = async {
        loop {
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            let elapsed = started.elapsed();
            let progress = ProgressNotificationParam::new(token.clone(), elapsed.as_secs_f64())
                .with_message(format!("{action}: {} s", elapsed.as_secs()));
            // Fails if the client has disconnected, which cancels the call.
            let _ = context.peer.notify_progress(progress).await;
        }
    };
    tokio::select! {
        outcome = work => outcome.map(Json),
        () = notify => unreachable!("the loop never ends"),
    }
}
