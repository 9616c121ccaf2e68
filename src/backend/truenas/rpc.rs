//! JSON-RPC calls over one connection. Connects and logs in on first use, and
//! again after the connection is lost.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::api_version::Release;
use super::auth::{Login, Session};
use super::connect::MAX_MESSAGE;
use super::endpoint::Endpoint;
use super::error::Failure;
use super::messages::Meaning;
use super::socket::{Connection, Disconnected, MAX_ATTEMPTS, RETRY_PAUSE};
use super::wire::decode;
use crate::model::Error;

/// Deadline of a call from request to response, including reconnection.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of calls that the server runs concurrently per connection.
const MAX_CALLS: usize = 10;
/// The server's limit for a request after login, in characters.
const MAX_REQUEST: usize = 65_536;
/// The server's limit for a [`FILE_RECEIVE`] request, in characters.
const MAX_FILE_REQUEST: usize = 2_097_152;
pub(super) const FILE_RECEIVE: &str = "filesystem.file_receive";
/// Maximum pause between connection attempts. Pauses double each time.
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// The server limits logins per minute. A new minute resets the limit.
const RATE_LIMIT_WINDOW: Duration = Duration::from_secs(65);
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Rpc {
    endpoint: Endpoint,
    pub login: Login,
    slots: Semaphore,
    session: Mutex<Option<Arc<Session>>>,
    /// Prefix of call ids, unique to this process.
    origin: String,
    serial: AtomicU32,
    has_sent_writes: AtomicBool,
}

impl Rpc {
    pub fn new(endpoint: Endpoint, login: Login) -> Self {
        Self {
            endpoint,
            login,
            slots: Semaphore::new(MAX_CALLS),
            session: Mutex::new(None),
            origin: origin(),
            serial: AtomicU32::new(0),
            has_sent_writes: AtomicBool::new(false),
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint.authority
    }

    pub fn has_sent_writes(&self) -> bool {
        self.has_sent_writes.load(Ordering::Acquire)
    }

    /// Calls a method that only reads. Retries if the connection is lost.
    pub async fn read<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        self.send(method, &self.id(), &params, false).await
    }

    /// Calls a method that changes something. Retries only if the server has not
    /// received the call.
    pub async fn write<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        self.send(method, &self.id(), &params, true).await
    }

    /// Returns a globally unique id for a call.
    pub fn id(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{serial}", self.origin)
    }

    pub async fn release(&self) -> Result<Release, Failure> {
        Ok(self.session().await?.release)
    }

    /// Returns the number of writes without a response.
    pub async fn pending_writes(&self) -> usize {
        let session = self.session.lock().await;
        session
            .as_ref()
            .filter(|session| !session.connection.is_closed())
            .map_or(0, |session| session.connection.pending_writes())
    }

    /// Like [`Self::read`] or [`Self::write`], with an id from the caller.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: &'static str,
        id: &str,
        params: &Value,
        writes: bool,
    ) -> Result<T, Failure> {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let text = request.to_string();
        let limit = match method {
            FILE_RECEIVE => MAX_FILE_REQUEST,
            _ => MAX_REQUEST,
        };
        let length = text.chars().count();
        if length > limit {
            let reason = format!(
                "the request {method} has {length} characters, more than TrueNAS accepts ({limit})"
            );
            return Err(Error::Invalid(reason.into()).into());
        }
        // The login has a separate, longer timeout.
        self.session().await?;
        let work = async {
            let _slot = self.slots.acquire().await;
            self.call(method, id, &text, writes).await
        };
        match tokio::time::timeout(CALL_TIMEOUT, work).await {
            Ok(result) => Ok(decode(method, &result?)?),
            Err(_) => {
                let doing = format!("{method} on {}", self.endpoint());
                Err(Failure::timed_out(doing, CALL_TIMEOUT))
            }
        }
    }

    async fn call(
        &self,
        method: &'static str,
        id: &str,
        text: &str,
        writes: bool,
    ) -> Result<Box<RawValue>, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let session = self.session().await?;
            if writes {
                self.has_sent_writes.store(true, Ordering::Release);
            }
            let start = Instant::now();
            let response = session
                .connection
                .call(id.to_owned(), text.to_owned(), writes)
                .await;
            // Does not log parameters and result, which may be secret.
            tracing::debug!(method, took = ?start.elapsed(), ok = matches!(response, Ok(Ok(_))), "call");
            match response {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(fault)) if fault.means(Meaning::NoMethod) => {
                    let error = Error::Unsupported {
                        operation: format!("the API method {method}"),
                        reason: "the TrueNAS server lacks the method, perhaps after an upgrade"
                            .into(),
                    };
                    return Err(error.into());
                }
                Ok(Err(fault)) if attempts == MAX_ATTEMPTS => return Err(Failure::Refused(fault)),
                Ok(Err(fault)) if fault.means(Meaning::TooManyCalls) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Ok(Err(fault)) if fault.means(Meaning::LoggedOut) => session.connection.retire(),
                Ok(Err(fault)) => return Err(Failure::Refused(fault)),
                Err(Disconnected { end, .. }) if end.too_large => {
                    session.connection.retire();
                    return Err(Failure::too_large(self.endpoint(), method, MAX_MESSAGE));
                }
                Err(Disconnected { sent, end }) => {
                    session.connection.retire();
                    if (sent && writes) || attempts == MAX_ATTEMPTS {
                        return Err(Failure::lost(self.endpoint(), method, &end.reason));
                    }
                }
            }
        }
    }

    /// Returns the current session, or opens a new session. The first connection is
    /// attempted only once, so that an unreachable server is reported immediately.
    /// Reconnection is retried with growing pauses, up to the caller's timeout.
    pub async fn session(&self) -> Result<Arc<Session>, Failure> {
        let mut slot = self.session.lock().await;
        let was_connected = match &*slot {
            Some(session) if !session.connection.is_closed() => return Ok(Arc::clone(session)),
            Some(_) => true,
            None => false,
        };
        let start = Instant::now();
        let mut pause = RETRY_PAUSE;
        let mut rate_limit_pause = RATE_LIMIT_PAUSE;
        loop {
            match self.connect().await {
                Ok(session) => {
                    let session = Arc::new(session);
                    *slot = Some(Arc::clone(&session));
                    return Ok(session);
                }
                Err(failure @ Failure::Unreachable(_)) if was_connected && pause < MAX_PAUSE => {
                    tracing::debug!(%failure, "connecting again");
                    tokio::time::sleep(jittered(pause)).await;
                    pause *= 2;
                }
                Err(failure @ Failure::RateLimited(_))
                    if start.elapsed() + rate_limit_pause < RATE_LIMIT_WINDOW =>
                {
                    tracing::debug!(%failure, "logging in again");
                    tokio::time::sleep(jittered(rate_limit_pause)).await;
                    rate_limit_pause = (rate_limit_pause * 2).min(MAX_PAUSE);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn connect(&self) -> Result<Session, Failure> {
        self.log_in(Connection::open(&self.endpoint).await?).await
    }
}

/// Changes the pause by up to 25 percent, so that clients do not retry
/// simultaneously.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause.mul_f64(0.75 + f64::from(u16::try_from(random).unwrap_or(0)) / 1024.0)
}

fn origin() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("px{:016x}", hasher.finish())
}
