//! The server for AI agents: sandboxes over the Model Context Protocol.
//!
//! One process at a time owns the state file, by a lock on the pid file. It
//! starts with what an earlier one left, serves until it is told to end, and
//! ends with nothing half-made. A kill at any moment is made good by the next
//! start.

mod auth;
mod base_builds;
mod cancellation;
mod checkpoints;
mod create;
mod create_request;
mod egress_ceiling;
mod encoding;
mod error;
mod exec;
mod files;
mod http;
pub mod install;
mod jobs;
mod line_reader;
mod locks;
mod reaper;
#[cfg(test)]
mod reaper_test;
mod reconcile;
mod response;
mod service;
mod sse;
mod state;
pub mod stdio;
mod token_file;
mod tools;
mod truncate;

#[cfg(test)]
#[path = "../../tests/fuzz/mcp.rs"]
mod fuzz;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use reaper::Limits;

use crate::base::BaseBuilder;
use crate::egress::Mode;
use crate::file_lock::{FileLock, LockMode};
use crate::model::Backend;
use crate::secret::Secret;
use auth::Authenticator;
use service::{Options, Service};
use state::{Record, Store};

/// For sandboxes in the making to be unmade.
const CLOSING: Duration = Duration::from_secs(30);
/// Between two attempts to reach the server at the start.
const AGAIN: Duration = Duration::from_secs(5);

/// Everything the settings say of the server.
#[derive(Debug)]
pub struct Config {
    pub prefix: String,
    pub limits: Limits,
    pub reap_interval: Duration,
    pub exec_timeout_max: Duration,
    pub max_sandboxes: Option<u64>,
    pub ceiling: Mode,
    pub state_file: PathBuf,
    pub pid_file: PathBuf,
    /// Names the server that the sandboxes are on.
    pub server: String,
}

/// Where it listens.
#[derive(Debug, Default)]
pub struct Listen {
    /// `host:port`
    pub address: Option<String>,
    pub sockets: Vec<PathBuf>,
    pub path: String,
    pub token: Option<Secret>,
    /// Holds the token where one is needed and none is set.
    pub token_file: PathBuf,
    pub hosts: Vec<String>,
    pub origins: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "another server owns {}{}: stop it first, or set mcp.pid_file and mcp.state_file",
        path.display(),
        holder(pid)
    )]
    Running { path: PathBuf, pid: Option<String> },
    #[error(transparent)]
    State(#[from] state::LoadError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("listening on {address}: {source}")]
    Listen { address: String, source: io::Error },
}

fn holder(pid: &Option<String>) -> String {
    pid.as_ref()
        .map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// The one server of a state file; the lock goes with it.
pub struct Server {
    service: Arc<Service>,
    reap_interval: Duration,
    _lock: FileLock,
}

impl Server {
    /// Takes the lock and reads the state. Nothing is asked of the backend yet.
    pub fn open(
        config: Config,
        base_builder: BaseBuilder,
        backend: Box<dyn Backend>,
    ) -> Result<Self, StartError> {
        let lock = lock(&config.pid_file)?;
        let (store, aside) = Store::load(&config.state_file, &config.server)?;
        if let Some(aside) = aside {
            tracing::error!(
                place = %aside.display(),
                "the state file could not be read and was put aside; sandboxes on the server are adopted"
            );
        }
        let options = Options {
            owner: owner(&config.state_file),
            prefix: config.prefix,
            limits: config.limits,
            exec_timeout_max: config.exec_timeout_max,
            max_sandboxes: config.max_sandboxes,
            ceiling: config.ceiling,
        };
        let clock = Arc::new(OffsetDateTime::now_utc);
        let service = Service::new(backend, base_builder, options, store, clock);
        Ok(Self {
            service: Arc::new(service),
            reap_interval: config.reap_interval,
            _lock: lock,
        })
    }

    /// Serves until `stop`. `ready` is told each place where it listens.
    pub async fn serve(
        self,
        listen: Listen,
        stop: &CancellationToken,
        ready: impl FnOnce(&[String]),
    ) -> Result<(), StartError> {
        let service = self.service.clone();
        let inherited = service.records();
        let mut places = Vec::new();
        let mut listeners = tokio::task::JoinSet::new();
        if let Some(address) = &listen.address {
            let failed = |source| StartError::Listen {
                address: address.clone(),
                source,
            };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            let public = !bound.ip().is_loopback();
            let mut token = listen.token.clone();
            if public && token.is_none() {
                let file = |source| StartError::File {
                    path: listen.token_file.clone(),
                    source,
                };
                token = Some(token_file::read_or_create(&listen.token_file).map_err(file)?);
                tracing::info!(
                    file = %listen.token_file.display(),
                    "others can reach this address: clients must show the token of this file"
                );
            }
            let mut hosts = listen.hosts.clone();
            if let Some((host, _)) = address.rsplit_once(':') {
                hosts.push(host.to_owned());
            }
            let guard = Authenticator::new(hosts, listen.origins.clone(), public, token.as_ref());
            let app = http::app(&service, &listen.path, guard);
            places.push(format!("http://{bound}{}", listen.path));
            listeners.spawn(http::tcp(listener, app, stop.clone()));
        }
        for path in &listen.sockets {
            let file = |source| StartError::File {
                path: path.clone(),
                source,
            };
            let socket = http::Socket::bind(path).map_err(file)?;
            let app = http::app(&service, &listen.path, Authenticator::unix_socket());
            places.push(format!("unix:{}", path.display()));
            listeners.spawn(http::unix(socket, app, stop.clone()));
        }
        for place in &places {
            tracing::info!(place, "listening");
        }
        ready(&places);
        let work = async {
            recover(&service, &inherited, stop).await;
            reaper::run(service.clone(), self.reap_interval).await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
        tracing::info!("ending");
        service.stopping().cancel();
        while listeners.join_next().await.is_some() {}
        service.close(CLOSING).await;
        Ok(())
    }
}

/// Tries until the backend answers: sandboxes must not be given up because it
/// starts later than this server.
async fn recover(service: &Arc<Service>, inherited: &[Record], stop: &CancellationToken) {
    while let Err(error) = service.recover(inherited).await {
        tracing::warn!(%error, "cannot look for what an earlier process left; trying again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

fn lock(path: &Path) -> Result<FileLock, StartError> {
    let failed = |source| StartError::File {
        path: path.to_owned(),
        source,
    };
    let Some(mut lock) = FileLock::attempt(path, LockMode::Exclusive).map_err(failed)? else {
        let pid = std::fs::read_to_string(path).ok();
        return Err(StartError::Running {
            path: path.to_owned(),
            pid: pid
                .map(|pid| pid.trim().to_owned())
                .filter(|pid| !pid.is_empty()),
        });
    };
    lock.write_owner(&format!("{}\n", std::process::id()))
        .map_err(failed)?;
    Ok(lock)
}

/// The same for every process with this state file, also when the file itself
/// is lost.
fn owner(state_file: &Path) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    let path = std::path::absolute(state_file).unwrap_or_else(|_| state_file.to_owned());
    let text = format!("{}\n{user}\n{}", machine.trim(), path.display());
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref()[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
