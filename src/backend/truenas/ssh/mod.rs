//! SSH access to pixels: one connection as root per pixel and process. Every
//! command has a separate channel.

mod command;
mod exec;
mod host_key;
mod keys;
pub(super) mod known_hosts;
mod pid_line;
mod signals;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::{Channel, Disconnect};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

pub use keys::AskPassphrase;

use crate::backend::sftp;
use crate::model::{Error, ExecIo, ExecRequest, ExitStatus, Result};
use crate::retry::{self, Next};
use host_key::HostKeyVerifier;
use keys::Keys;
use known_hosts::KnownHosts;

const PORT: u16 = 22;
/// The login user. Commands run as any user, and only root can switch users.
const USER: &str = "root";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of the connection, including the key exchange.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait for the address and the SSH server of a booting pixel.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Number of unanswered keepalives after which the connection ends.
const MAX_UNANSWERED: usize = 3;

/// The SSH settings.
pub struct Settings {
    pub key: Option<PathBuf>,
    /// The socket path of an SSH agent.
    pub agent: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
    /// Whether to reject a host key that differs from the recorded key.
    pub strict: bool,
    pub ask_passphrase: AskPassphrase,
}

/// The address of a pixel's SSH server, and the name of the host key.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub instance: String,
    /// The name from [`host_key_name`].
    pub key_name: String,
    pub address: Ipv4Addr,
}

/// Returns the name of an instance in the file of host keys. `id` differs from
/// all earlier instances with the same name.
pub(super) fn host_key_name(instance: &str, id: &str) -> String {
    format!("{instance}/{}", id.replace([' ', '@'], "_"))
}

pub(super) struct Ssh {
    keys: Keys,
    known_hosts: Arc<KnownHosts>,
    strict: bool,
    tasks: TaskTracker,
    /// Connections by instance name, reused while open.
    sessions: tokio::sync::Mutex<HashMap<String, Arc<Session>>>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh").finish_non_exhaustive()
    }
}

/// An SSH connection after login.
pub(super) struct Session {
    handle: Handle<HostKeyVerifier>,
    sftp: tokio::sync::OnceCell<sftp::Files>,
}

impl Ssh {
    pub fn new(settings: Settings, tasks: TaskTracker) -> Self {
        Self {
            keys: Keys {
                file: settings.key,
                agent: settings.agent,
                ask_passphrase: settings.ask_passphrase,
                unlocked: tokio::sync::Mutex::new(None),
            },
            known_hosts: Arc::new(KnownHosts {
                path: settings.known_hosts,
            }),
            strict: settings.strict,
            tasks,
            sessions: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the public key for new pixels. See [`Keys::public`].
    pub async fn public_key(&self) -> Result<String> {
        self.keys.public().await
    }

    /// Returns the current connection to an instance, or connects. `host` returns
    /// `None` while the instance has no address.
    pub async fn session<F>(&self, instance: &str, host: impl Fn() -> F) -> Result<Arc<Session>>
    where
        F: Future<Output = Result<Option<Host>>>,
    {
        {
            let sessions = self.sessions.lock().await;
            if let Some(session) = sessions.get(instance)
                && !session.handle.is_closed()
            {
                return Ok(Arc::clone(session));
            }
        }
        self.wait_for_session(host, BOOT_TIMEOUT).await
    }

    /// Connects and logs in. Retries until `limit` while the instance has no
    /// address or the SSH server is unreachable.
    pub async fn wait_for_session<F>(
        &self,
        host: impl Fn() -> F,
        limit: Duration,
    ) -> Result<Arc<Session>>
    where
        F: Future<Output = Result<Option<Host>>>,
    {
        let (instance, session) = retry::until(limit, || async {
            let host = match host().await {
                Ok(Some(host)) => host,
                Ok(None) => {
                    return Next::Again(Error::Unreachable {
                        endpoint: "the pixel".into(),
                        reason: "the pixel has no IPv4 address".into(),
                    });
                }
                Err(error) => return Next::Done(Err(error)),
            };
            match self.connect(&host).await {
                Ok(session) => Next::Done(Ok((host.instance, Arc::new(session)))),
                // During boot, the pixel refuses or closes connections.
                Err(error @ (Error::Unreachable { .. } | Error::TimedOut { .. })) => {
                    Next::Again(error)
                }
                Err(error) => Next::Done(Err(error)),
            }
        })
        .await
        .unwrap_or_else(Err)?;
        let mut sessions = self.sessions.lock().await;
        sessions.insert(instance, Arc::clone(&session));
        Ok(session)
    }

    async fn connect(&self, host: &Host) -> Result<Session> {
        let unreachable = |reason: String| Error::Unreachable {
            endpoint: format!("the pixel's SSH server at {}", host.address),
            reason: reason.into(),
        };
        let late = |what: &str, limit: Duration| {
            unreachable(format!("no {what} within {} s", limit.as_secs()))
        };
        let tcp = TcpStream::connect((host.address, PORT));
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, tcp)
            .await
            .map_err(|_| late("connection", CONNECT_TIMEOUT))?
            .map_err(|error| unreachable(error.to_string()))?;
        let _ = tcp.set_nodelay(true);
        let rejection = Arc::new(Mutex::new(None));
        let verifier = HostKeyVerifier {
            known_hosts: Arc::clone(&self.known_hosts),
            host: host.key_name.clone(),
            strict: self.strict,
            rejection: Arc::clone(&rejection),
        };
        let config = client::Config {
            keepalive_interval: Some(KEEPALIVE_INTERVAL),
            keepalive_max: MAX_UNANSWERED,
            window_size: 4 << 20,
            ..client::Config::default()
        };
        let handshake = client::connect_stream(Arc::new(config), tcp, verifier);
        let mut handle = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| late("key exchange", HANDSHAKE_TIMEOUT))?
            .map_err(|error| {
                let mut rejection = rejection.lock().unwrap_or_else(PoisonError::into_inner);
                let rejection = rejection.take();
                rejection.unwrap_or_else(|| unreachable(error.to_string()))
            })?;
        self.keys.log_in(&mut handle, USER).await?;
        Ok(Session {
            handle,
            sftp: tokio::sync::OnceCell::new(),
        })
    }

    /// Closes the connection to an instance, for example after a restart.
    pub async fn close_session(&self, instance: &str) {
        let session = self.sessions.lock().await.remove(instance);
        if let Some(session) = session {
            let disconnect = session.handle.disconnect(Disconnect::ByApplication, "", "");
            let _ = tokio::time::timeout(CONNECT_TIMEOUT, disconnect).await;
        }
    }

    /// Removes the host keys of a deleted instance.
    pub fn remove_host_keys(&self, instance: &str, id: &str) {
        log_failure(self.known_hosts.remove(&host_key_name(instance, id)));
    }

    /// Records the current host key for a new checkpoint.
    pub fn save_host_key(&self, instance: &str, id: &str, label: &str) {
        log_failure(self.known_hosts.save(&host_key_name(instance, id), label));
    }

    /// Restores the recorded host key of a checkpoint.
    pub fn restore_host_key(&self, instance: &str, id: &str, label: &str) {
        log_failure(
            self.known_hosts
                .restore(&host_key_name(instance, id), label),
        );
    }

    pub async fn exec(
        &self,
        session: &Arc<Session>,
        request: &ExecRequest,
        io: ExecIo,
    ) -> Result<ExitStatus> {
        exec::run(session, &self.tasks, request, io).await
    }
}

/// Ignores and logs a failure to record host keys.
fn log_failure(outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "known hosts");
    }
}

impl Session {
    async fn channel(&self) -> Result<Channel<Msg>> {
        self.handle.channel_open_session().await.map_err(lost)
    }

    /// Returns the SFTP client, which is opened on first use.
    pub async fn sftp(&self) -> Result<&sftp::Files> {
        let open = || async {
            let mut channel = self.channel().await?;
            let request = channel.request_subsystem(true, "sftp").await;
            request.map_err(lost)?;
            exec::expect_success(&mut channel, "file transfer by SFTP").await?;
            let files = sftp::Files::open(channel.into_stream()).await;
            files.map_err(|e| Error::Protocol(format!("sftp: {e}")))
        };
        self.sftp.get_or_try_init(open).await
    }
}

/// Returns the error for a request on a lost connection.
fn lost(error: russh::Error) -> Error {
    Error::Unreachable {
        endpoint: "the pixel's SSH server".into(),
        reason: error.to_string().into(),
    }
}
