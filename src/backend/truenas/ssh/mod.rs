//! The way into a pixel: one SSH connection per pixel and command of ours,
//! as root, on which everything runs on channels of its own.

mod command;
mod exec;
mod keys;
pub(super) mod known_hosts;
mod pid_line;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use russh::client::{self, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, Disconnect};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub use keys::Ask;

use crate::backend::sftp;
use crate::model::{Error, ExecIo, ExecRequest, ExitStatus, FileStat, GuestFile, Result};
use crate::retry::{self, Next};
use keys::Keys;
use known_hosts::{KnownHosts, Verdict};

const PORT: u16 = 22;
/// Commands run as whom they are asked for; only root can become everybody.
const USER: &str = "root";
const CONNECT: Duration = Duration::from_secs(5);
/// Up to the end of the key exchange.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// For a booting pixel to have an address and a server on it.
const BOOT: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// So many unanswered ones end the connection.
const UNANSWERED: usize = 3;

/// How pixels are entered.
pub struct Settings {
    pub key: Option<PathBuf>,
    /// The socket of an agent.
    pub agent: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
    /// Refuse a host key that is not the one first seen.
    pub strict: bool,
    pub ask: Ask,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("key", &self.key)
            .field("agent", &self.agent)
            .field("known_hosts", &self.known_hosts)
            .field("strict", &self.strict)
            .finish_non_exhaustive()
    }
}

/// A pixel's SSH server.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub instance: String,
    /// Tells the instance from others that had its name.
    pub id: String,
    pub address: Ipv4Addr,
}

impl Host {
    fn key(&self) -> String {
        host(&self.instance, &self.id)
    }
}

fn host(instance: &str, id: &str) -> String {
    format!("{instance}/{}", id.replace([' ', '@'], "_"))
}

pub(super) struct Ssh {
    keys: Keys,
    known: Arc<KnownHosts>,
    strict: bool,
    tasks: TaskTracker,
    /// By instance; reused as long as they last.
    sessions: tokio::sync::Mutex<HashMap<String, Arc<Session>>>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh")
            .field("keys", &self.keys)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

/// A connection that is logged in.
pub(super) struct Session {
    handle: Handle<HostKeyVerifier>,
    files: tokio::sync::OnceCell<sftp::Files>,
}

impl Ssh {
    pub fn new(settings: Settings, tasks: TaskTracker) -> Self {
        Self {
            keys: Keys {
                file: settings.key,
                agent: settings.agent,
                ask: settings.ask,
                unlocked: tokio::sync::Mutex::new(None),
            },
            known: Arc::new(KnownHosts::new(settings.known_hosts)),
            strict: settings.strict,
            tasks,
            sessions: tokio::sync::Mutex::default(),
        }
    }

    pub async fn public_key(&self) -> Result<String> {
        self.keys.public().await
    }

    /// The connection to an instance, made when there is none.
    pub async fn session<F>(&self, instance: &str, place: impl Fn() -> F) -> Result<Arc<Session>>
    where
        F: Future<Output = Result<Option<Host>>>,
    {
        {
            let sessions = self.sessions.lock().await;
            if let Some(open) = sessions.get(instance)
                && !open.handle.is_closed()
            {
                return Ok(Arc::clone(open));
            }
        }
        self.wait(place, BOOT).await
    }

    /// Waits until the instance has an address and lets us in.
    pub async fn wait<F>(&self, place: impl Fn() -> F, limit: Duration) -> Result<Arc<Session>>
    where
        F: Future<Output = Result<Option<Host>>>,
    {
        let (instance, session) = retry::until(limit, || async {
            let host = match place().await {
                Ok(Some(host)) => host,
                Ok(None) => {
                    return Next::Again(Error::Unreachable {
                        endpoint: "the pixel".into(),
                        reason: "it has no IPv4 address".into(),
                    });
                }
                Err(error) => return Next::Done(Err(error)),
            };
            match self.connect(&host).await {
                Ok(session) => Next::Done(Ok((host.instance, Arc::new(session)))),
                // A server that boots refuses, or hangs up.
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
        let tcp =
            match tokio::time::timeout(CONNECT, TcpStream::connect((host.address, PORT))).await {
                Ok(Ok(tcp)) => tcp,
                Ok(Err(error)) => return Err(unreachable(error.to_string())),
                Err(_) => return Err(unreachable(format!("silent for {} s", CONNECT.as_secs()))),
            };
        let _ = tcp.set_nodelay(true);
        let refusal = Arc::new(Mutex::new(None));
        let checker = HostKeyVerifier {
            known: Arc::clone(&self.known),
            host: host.key(),
            strict: self.strict,
            refusal: Arc::clone(&refusal),
        };
        let config = client::Config {
            keepalive_interval: Some(KEEP_ALIVE),
            keepalive_max: UNANSWERED,
            window_size: 4 << 20,
            ..client::Config::default()
        };
        let joining = client::connect_stream(Arc::new(config), tcp, checker);
        let mut handle = match tokio::time::timeout(HANDSHAKE, joining).await {
            Ok(Ok(handle)) => handle,
            Ok(Err(error)) => {
                let said = refusal
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                return Err(said.unwrap_or_else(|| unreachable(error.to_string())));
            }
            Err(_) => {
                return Err(unreachable(format!(
                    "no key exchange within {} s",
                    HANDSHAKE.as_secs()
                )));
            }
        };
        self.keys.log_in(&mut handle, USER).await?;
        Ok(Session {
            handle,
            files: tokio::sync::OnceCell::new(),
        })
    }

    /// The instance's connection is no good any more.
    pub async fn forget_session(&self, instance: &str) {
        let gone = self.sessions.lock().await.remove(instance);
        if let Some(session) = gone {
            let bye = session.handle.disconnect(Disconnect::ByApplication, "", "");
            let _ = tokio::time::timeout(CONNECT, bye).await;
        }
    }

    /// The instance is no more.
    pub fn forget_host(&self, instance: &str, id: &str) {
        noted(self.known.forget(&host(instance, id)));
    }

    /// A checkpoint was taken, with the host key of now in it.
    pub fn host_saved(&self, instance: &str, id: &str, label: &str) {
        noted(self.known.save(&host(instance, id), label));
    }

    pub fn host_restored(&self, instance: &str, id: &str, label: &str) {
        noted(self.known.restore(&host(instance, id), label));
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

/// What is remembered is a help: the work goes on without it.
fn noted(outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "known hosts");
    }
}

impl Session {
    async fn channel(&self) -> Result<Channel<Msg>> {
        self.handle.channel_open_session().await.map_err(lost)
    }

    async fn files(&self) -> Result<&sftp::Files> {
        self.files
            .get_or_try_init(|| async {
                let mut channel = self.channel().await?;
                channel
                    .request_subsystem(true, "sftp")
                    .await
                    .map_err(lost)?;
                exec::agreed(&mut channel, "file transfer (SFTP)").await?;
                sftp::Files::open(channel.into_stream())
                    .await
                    .map_err(|e| Error::Protocol(format!("sftp: {e}")))
            })
            .await
    }

    pub async fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        sftp::read(self.files().await?, path, limit).await
    }

    pub async fn write(&self, file: &GuestFile) -> Result<()> {
        sftp::write(self.files().await?, file).await
    }

    pub async fn fill(&self, path: &str, content: mpsc::Receiver<Bytes>) -> Result<()> {
        sftp::fill(self.files().await?, path, content).await
    }

    pub async fn remove(&self, path: &str) -> Result<()> {
        sftp::remove(self.files().await?, path).await
    }

    pub async fn make_dir(&self, path: &str) -> Result<()> {
        sftp::make_dir(self.files().await?, path).await
    }

    pub async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        sftp::symlink(self.files().await?, path, target).await
    }

    pub async fn read_link(&self, path: &str) -> Result<String> {
        sftp::read_link(self.files().await?, path).await
    }

    pub async fn list(&self, path: &str) -> Result<Vec<String>> {
        sftp::list(self.files().await?, path).await
    }

    pub async fn stat(&self, path: &str) -> Result<FileStat> {
        sftp::stat(self.files().await?, path).await
    }
}

/// Decides on the pixel's host key.
pub(super) struct HostKeyVerifier {
    known: Arc<KnownHosts>,
    host: String,
    strict: bool,
    refusal: Arc<Mutex<Option<Error>>>,
}

impl client::Handler for HostKeyVerifier {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        let mut key = key.clone();
        key.set_comment("");
        let line = key.to_openssh()?.trim().to_owned();
        match self.known.check(&self.host, &line) {
            Verdict::Known => return Ok(true),
            Verdict::Changed if self.strict => {
                let file = self.known.path().map(|path| path.display().to_string());
                let refusal = Error::Denied {
                    endpoint: "the pixel".into(),
                    reason: format!(
                        "its SSH host key is not the one first seen; if you know why, remove the \
                         line {} from {}",
                        self.host,
                        file.unwrap_or_default()
                    )
                    .into(),
                };
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                return Ok(false);
            }
            Verdict::New | Verdict::Changed => {}
        }
        tracing::debug!(host = self.host, "a host key seen for the first time");
        noted(self.known.put(&self.host, &line));
        Ok(true)
    }
}

/// A request on a connection that is no more.
fn lost(error: russh::Error) -> Error {
    Error::Unreachable {
        endpoint: "the pixel's SSH server".into(),
        reason: error.to_string().into(),
    }
}
