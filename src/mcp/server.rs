//! The server process: locks the PID file, loads the state file, listens, and
//! runs the reaper.
//!
//! Only one process at a time uses a state file. After a crash, the next server
//! resumes unfinished work.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::auth::Authenticator;
use super::config::Config;
use super::service::Service;
use super::state::{LoadError, Store};
use super::{http, reaper, token_file};
use crate::base::BaseBuilder;
use crate::file_lock::{FileLock, LockMode};
use crate::model::Backend;
use crate::secret::Secret;

/// Time limit for tasks to clean up when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
const RECOVER_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The addresses and sockets of the server, and its access rules.
#[derive(Debug, Default)]
pub struct Listen {
    /// `host:port`
    pub address: Option<String>,
    pub sockets: Vec<PathBuf>,
    /// Path of the endpoint URL.
    pub path: String,
    pub token: Option<Secret>,
    /// File for a generated token, if a token is needed and `token` is `None`.
    pub token_file: PathBuf,
    pub hosts: Vec<String>,
    pub origins: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "another server owns {}{}: stop it first, or set mcp.pid_file and mcp.state_file",
        path.display(),
        process(pid)
    )]
    Running { path: PathBuf, pid: Option<String> },
    #[error(transparent)]
    State(#[from] LoadError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
}

impl StartError {
    fn file(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

fn process(pid: &Option<String>) -> String {
    pid.as_ref()
        .map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// The only server of a state file. Holds the lock until dropped.
pub struct Server {
    service: Arc<Service>,
    _lock: FileLock,
}

impl Server {
    /// Takes the lock and loads the state file. Does not use the backend.
    pub fn open(
        config: Config,
        base_builder: BaseBuilder,
        backend: Box<dyn Backend>,
    ) -> Result<Self, StartError> {
        let lock = lock(&config.pid_file)?;
        let (store, renamed) = Store::load(&config.state_file, &config.server)?;
        if let Some(renamed) = renamed {
            tracing::error!(
                file = %renamed.display(),
                "cannot parse the state file: renamed it; existing sandboxes are adopted"
            );
        }
        let clock = Arc::new(OffsetDateTime::now_utc);
        let service = Service::new(backend, base_builder, config, store, clock);
        Ok(Self {
            service: Arc::new(service),
            _lock: lock,
        })
    }

    /// Serves until `stop` is canceled, then interrupts calls and waits for
    /// their cleanup. Calls `ready` with the addresses and sockets in use.
    pub async fn serve(
        self,
        listen: Listen,
        stop: &CancellationToken,
        ready: impl FnOnce(&[String]),
    ) -> Result<(), StartError> {
        let service = self.service.clone();
        let inherited = service.store.all();
        let mut listening = Vec::new();
        let mut listeners = JoinSet::new();
        if let Some(address) = &listen.address {
            let (listener, authenticator) = bind_tcp(address, &listen).await?;
            let bound = listener.local_addr().map_err(listen_error(address))?;
            let app = http::app(&service, &listen.path, authenticator);
            listening.push(format!("http://{bound}{}", listen.path));
            listeners.spawn(http::serve_tcp(listener, app, stop.clone()));
        }
        for path in &listen.sockets {
            let (listener, file) = http::bind_unix(path).map_err(StartError::file(path))?;
            let app = http::app(&service, &listen.path, Authenticator::unix_socket());
            listening.push(format!("unix:{}", path.display()));
            let serving = http::serve_unix(listener, app, stop.clone());
            listeners.spawn(async move {
                let _file = file;
                serving.await;
            });
        }
        for address in &listening {
            tracing::info!(address, "listening");
        }
        ready(&listening);
        let background = async {
            // The backend may start after this server.
            while let Err(error) = service.recover(&inherited).await {
                tracing::warn!(%error, "cannot resume the work of an earlier server; retrying");
                tokio::time::sleep(RECOVER_RETRY_DELAY).await;
            }
            reaper::run(&service).await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = background => {}
        }
        tracing::info!("stopping");
        service.stopping().cancel();
        while listeners.join_next().await.is_some() {}
        service.close(CLOSE_TIMEOUT).await;
        Ok(())
    }
}

fn listen_error(address: &str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Listen {
        address: address.to_owned(),
        source,
    }
}

/// Listens on a TCP address. If other machines can reach the address, requires
/// a token, and generates a token if the settings contain none.
async fn bind_tcp(
    address: &str,
    listen: &Listen,
) -> Result<(TcpListener, Authenticator), StartError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(listen_error(address))?;
    let bound = listener.local_addr().map_err(listen_error(address))?;
    let public = !bound.ip().is_loopback();
    let mut token = listen.token.clone();
    if public && token.is_none() {
        let file = &listen.token_file;
        token = Some(token_file::read_or_create(file).map_err(StartError::file(file))?);
        tracing::info!(
            file = %file.display(),
            "other machines can reach this address: clients must send the token in this file"
        );
    }
    let mut hosts = listen.hosts.clone();
    if let Some((host, _)) = address.rsplit_once(':') {
        hosts.push(host.to_owned());
    }
    let origins = listen.origins.clone();
    let authenticator = Authenticator::new(hosts, origins, public, token);
    Ok((listener, authenticator))
}

fn lock(path: &Path) -> Result<FileLock, StartError> {
    let Some(mut lock) =
        FileLock::try_acquire(path, LockMode::Exclusive).map_err(StartError::file(path))?
    else {
        let pid = std::fs::read_to_string(path).ok();
        return Err(StartError::Running {
            path: path.to_owned(),
            pid: pid
                .map(|pid| pid.trim().to_owned())
                .filter(|pid| !pid.is_empty()),
        });
    };
    lock.write_owner(&format!("{}\n", std::process::id()))
        .map_err(StartError::file(path))?;
    Ok(lock)
}
