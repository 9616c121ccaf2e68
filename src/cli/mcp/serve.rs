//! The MCP server: on an address and sockets, or for one stdio client.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use clap::{Args, ValueHint};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Context, from_settings};
use crate::backend;
use crate::base::BaseBuilder;
use crate::cli::error_report;
use crate::config::{Flags, Settings};
use crate::mcp::{Config, Limits, Listen, MaxResources, Server, StartError, stdio};
use crate::model::lock;
use crate::user_dirs;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Serve one client on stdin and stdout; all stdio clients of a user share a server
    #[arg(long, conflicts_with = "listen_addr")]
    stdio: bool,
    /// Address to listen on [default: setting mcp.listen_addr]
    #[arg(long, value_name = "HOST:PORT")]
    listen_addr: Option<String>,
    /// File that stores the sandboxes [default: setting mcp.state_file]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    state_file: Option<String>,
    /// File whose lock prevents a second server [default: setting mcp.pid_file]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pid_file: Option<String>,
}

impl ServeArgs {
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        for (key, value, flag) in [
            ("mcp.listen_addr", &self.listen_addr, "--listen-addr"),
            ("mcp.state_file", &self.state_file, "--state-file"),
            ("mcp.pid_file", &self.pid_file, "--pid-file"),
        ] {
            // Scripts may pass an empty string to use the default.
            if let Some(value) = value.as_ref().filter(|it| !it.is_empty()) {
                flags.set(key, value.clone(), flag);
            }
        }
        flags
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let setup = ServerSetup::from_settings(context)?;
        if self.stdio {
            return serve_client(context, setup).await;
        }
        let server = setup.server()?;
        let ui = context.ui;
        let on_listening = |addresses: &[String]| {
            for address in addresses {
                ui.status(&format!("Listening on {address}"));
            }
        };
        let listen = setup.listen_everywhere();
        server.serve(listen, context.cancel(), on_listening).await?;
        Ok(())
    }
}

/// The settings of the server that uses a state file.
struct ServerSetup {
    settings: Settings,
    base_builder: BaseBuilder,
    config: Config,
    token_file: PathBuf,
}

impl ServerSetup {
    fn from_settings(context: &Context) -> anyhow::Result<Self> {
        let settings = context.settings().clone();
        let env = |name: &str| std::env::var_os(name);
        let mcp = &settings.mcp;
        let ceiling = mcp.egress_ceiling.unwrap_or(settings.network.egress);
        let config = Config {
            prefix: mcp.prefix.clone(),
            limits: Limits {
                idle_stop_after: mcp.idle_stop_after,
                hard_destroy_after: mcp.hard_destroy_after,
            },
            reap_interval: mcp.reap_interval,
            exec_timeout_max: mcp.exec_timeout_max,
            max_sandboxes: mcp.max_sandboxes,
            max_resources: MaxResources {
                cpus: mcp.max_cpu,
                memory_mib: mcp.max_memory_mib,
                disk_mib: mcp.max_disk_mib,
            },
            ceiling,
            state_file: mcp.state_path(&env)?,
            pid_file: mcp.pid_path(&env)?,
            server: backend::describe(&settings),
        };
        Ok(Self {
            base_builder: from_settings::base_builder(context)?,
            config,
            token_file: user_dirs::cache_dir(&env)?.join("mcp-token"),
            settings,
        })
    }

    fn server(&self) -> anyhow::Result<Server> {
        let backend = backend::open(&self.settings)?;
        let base_builder = self.base_builder.clone();
        Ok(Server::open(self.config.clone(), base_builder, backend)?)
    }

    /// The socket that stdio clients connect to.
    fn socket(&self) -> PathBuf {
        self.config.state_file.with_extension("sock")
    }

    fn listen_locally(&self) -> Listen {
        Listen {
            sockets: vec![self.socket()],
            path: self.settings.mcp.endpoint_path.clone(),
            token_file: self.token_file.clone(),
            ..Listen::default()
        }
    }

    fn listen_everywhere(&self) -> Listen {
        let mcp = &self.settings.mcp;
        let mut listen = self.listen_locally();
        listen.address = Some(mcp.listen_addr.clone());
        listen.sockets.extend(mcp.socket.clone());
        listen.token = mcp.auth_token.clone();
        listen.hosts = mcp.allowed_hosts.clone();
        listen.origins = mcp.allowed_origins.clone();
        listen
    }
}

/// A server for stdio clients. Stops when the client that started it exits.
struct LocalServer {
    setup: ServerSetup,
    stop: CancellationToken,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl LocalServer {
    /// Starts the server unless this or another process already runs a server.
    fn start(&self) -> anyhow::Result<()> {
        let mut running = lock(&self.running);
        if running.as_ref().is_some_and(|it| !it.is_finished()) {
            return Ok(());
        }
        let server = match self.setup.server() {
            Ok(server) => server,
            // The other process will listen soon, or has just exited.
            Err(error) if matches!(error.downcast_ref(), Some(StartError::Running { .. })) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (listen, stop) = (self.setup.listen_locally(), self.stop.clone());
        *running = Some(tokio::spawn(async move {
            if let Err(error) = server.serve(listen, &stop, |_| {}).await {
                tracing::error!(%error, "serving");
            }
        }));
        Ok(())
    }
}

/// Connects stdin and stdout to this user's server for one client.
async fn serve_client(context: &Context, setup: ServerSetup) -> anyhow::Result<()> {
    let (socket, path) = (setup.socket(), setup.settings.mcp.endpoint_path.clone());
    let server = Arc::new(LocalServer {
        setup,
        stop: context.cancel().child_token(),
        running: Mutex::default(),
    });
    // Report invalid settings before the first request.
    server.start()?;
    let launcher = server.clone();
    let start_server = move || launcher.start().map_err(|e| error_report::message(&e));
    let (stdin, stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let bridge = stdio::run(stdin, stdout, &socket, &path, start_server);
    let outcome = tokio::select! {
        outcome = bridge => outcome,
        () = context.cancel().cancelled() => Ok(()),
    };
    server.stop.cancel();
    let running = lock(&server.running).take();
    if let Some(running) = running {
        running.await?;
    }
    Ok(outcome?)
}
