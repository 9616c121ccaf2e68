//! The server itself: on an address, or for one client on our own streams.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, ValueHint};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Context, from_settings};
use crate::backend;
use crate::base::BaseBuilder;
use crate::cli::error_report;
use crate::config::{EgressMode, Flags, Settings};
use crate::egress::Mode;
use crate::mcp::{Config, Limits, Listen, Server, StartError, stdio};
use crate::user_dirs;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Serve one client on standard input and output, together with all others
    /// of this user
    #[arg(long, conflicts_with = "listen_addr")]
    stdio: bool,
    /// Listen here, host:port
    #[arg(long, value_name = "ADDRESS")]
    listen_addr: Option<String>,
    /// Keep the record of the sandboxes in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    state_file: Option<String>,
    /// Lock this file, so that nobody else serves the same sandboxes
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pid_file: Option<String>,
}

impl ServeArgs {
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        // Empty is what an unset variable of a script leaves.
        if let Some(address) = self.listen_addr.as_ref().filter(|it| !it.is_empty()) {
            flags.set("mcp.listen_addr", address.clone(), "--listen-addr");
        }
        for (key, path, flag) in [
            ("mcp.state_file", &self.state_file, "--state-file"),
            ("mcp.pid_file", &self.pid_file, "--pid-file"),
        ] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_empty()) {
                flags.set(key, path.clone(), flag);
            }
        }
        flags
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let creator = ServerSetup::from_settings(context)?;
        if self.stdio {
            return serve_client(context, creator).await;
        }
        let server = creator.server()?;
        let ui = context.ui;
        let ready = |places: &[String]| {
            for place in places {
                ui.status(&format!("Listening on {place}"));
            }
        };
        let listen = creator.everywhere();
        server.serve(listen, context.cancel(), ready).await?;
        Ok(())
    }
}

/// What makes the one server of a state file.
struct ServerSetup {
    settings: Settings,
    base_builder: BaseBuilder,
    state_file: PathBuf,
    pid_file: PathBuf,
    token_file: PathBuf,
}

impl ServerSetup {
    fn from_settings(context: &Context) -> anyhow::Result<Self> {
        let settings = context.settings().clone();
        let ours = |name: &str| std::env::var_os(name);
        Ok(Self {
            base_builder: from_settings::base_builder(context)?,
            state_file: settings.mcp.state_path(&ours)?,
            pid_file: settings.mcp.pid_path(&ours)?,
            token_file: user_dirs::cache_dir(&ours)?.join("mcp-token"),
            settings,
        })
    }

    fn server(&self) -> anyhow::Result<Server> {
        let mcp = &self.settings.mcp;
        let ceiling = mcp.egress_ceiling.unwrap_or(self.settings.network.egress);
        let config = Config {
            prefix: mcp.prefix.clone(),
            limits: Limits {
                idle_stop_after: mcp.idle_stop_after,
                hard_destroy_after: mcp.hard_destroy_after,
            },
            reap_interval: mcp.reap_interval,
            exec_timeout_max: mcp.exec_timeout_max,
            max_sandboxes: mcp.max_sandboxes,
            ceiling: match ceiling {
                EgressMode::Unrestricted => Mode::Unrestricted,
                EgressMode::Agent => Mode::Agent,
                EgressMode::Allowlist => Mode::Allowlist,
            },
            state_file: self.state_file.clone(),
            pid_file: self.pid_file.clone(),
            server: backend::describe(&self.settings),
        };
        let backend = backend::open(&self.settings)?;
        Ok(Server::open(config, self.base_builder.clone(), backend)?)
    }

    /// Where clients on our own streams reach the server.
    fn socket(&self) -> PathBuf {
        self.state_file.with_extension("sock")
    }

    fn locally(&self) -> Listen {
        Listen {
            address: None,
            sockets: vec![self.socket()],
            path: self.settings.mcp.endpoint_path.clone(),
            token: None,
            token_file: self.token_file.clone(),
            hosts: Vec::new(),
            origins: Vec::new(),
        }
    }

    fn everywhere(&self) -> Listen {
        let mcp = &self.settings.mcp;
        let mut listen = self.locally();
        listen.address = Some(mcp.listen_addr.clone());
        listen.sockets.extend(mcp.socket.clone());
        listen.token = mcp.auth_token.clone();
        listen.hosts = mcp.allowed_hosts.clone();
        listen.origins = mcp.allowed_origins.clone();
        listen
    }
}

/// Our own server, once we have one: it ends with us.
#[derive(Clone)]
struct LocalServer {
    creator: Arc<ServerSetup>,
    stop: CancellationToken,
    running: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl LocalServer {
    /// Unless it runs, or somebody else's does.
    fn start(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|it| !it.is_finished()) {
            return Ok(());
        }
        let server = match self.creator.server() {
            Ok(server) => server,
            // It listens in a moment, or has just ended.
            Err(error) if matches!(error.downcast_ref(), Some(StartError::Running { .. })) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (listen, stop) = (self.creator.locally(), self.stop.clone());
        *running = Some(tokio::spawn(async move {
            if let Err(error) = server.serve(listen, &stop, |_| {}).await {
                tracing::error!(%error, "serving");
            }
        }));
        Ok(())
    }
}

async fn serve_client(context: &Context, creator: ServerSetup) -> anyhow::Result<()> {
    let (socket, path) = (creator.socket(), creator.settings.mcp.endpoint_path.clone());
    let own = LocalServer {
        creator: Arc::new(creator),
        stop: context.cancel().child_token(),
        running: Arc::default(),
    };
    // What is wrong with the settings is told before the client says anything.
    own.start()?;
    let launcher = own.clone();
    let start_server = move || {
        launcher
            .start()
            .map_err(|error| error_report::message(&error))
    };
    let bridge = stdio::run(
        tokio::io::stdin(),
        tokio::io::stdout(),
        &socket,
        &path,
        start_server,
    );
    let outcome = tokio::select! {
        outcome = bridge => outcome,
        () = context.cancel().cancelled() => Ok(()),
    };
    own.stop.cancel();
    let running = own
        .running
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(running) = running {
        running.await?;
    }
    Ok(outcome?)
}
