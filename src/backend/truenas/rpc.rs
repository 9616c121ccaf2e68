//! Calls: sent over one connection that is made on first use, logged in, and
//! made again when it was lost.

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
use super::auth::{self, Login};
use super::endpoint::Endpoint;
use super::error::Failure;
use super::socket::{Connection, Disconnected, LARGEST};

/// From asking to the answer, making the connection anew included.
const CALL: Duration = Duration::from_secs(60);
/// So many calls run at once on the server's side.
const AT_ONCE: usize = 10;
/// So often a call is sent that may be repeated.
pub(super) const TRIES: u32 = 4;
/// The longest request the server takes once we are logged in, in characters.
const LONGEST: usize = 65_536;
/// The exception to that.
const LONGEST_FILE: usize = 2_097_152;
pub(super) const FILE: &str = "filesystem.file_receive";
/// Before a call is sent again that found no room, and between attempts to
/// connect, where it doubles.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// The server counts the logins of a minute, and begins anew after it.
const CROWDED: Duration = Duration::from_secs(65);
const CROWDED_PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Rpc {
    endpoint: Endpoint,
    login: Login,
    slots: Semaphore,
    open: Mutex<Option<Arc<Session>>>,
    /// Tells the calls of this process from all others.
    origin: String,
    serial: AtomicU32,
    changed: AtomicBool,
}

/// A connection that is logged in.
#[derive(Debug)]
pub(super) struct Session {
    pub connection: Connection,
    pub release: Release,
}

impl Rpc {
    pub fn new(endpoint: Endpoint, login: Login) -> Self {
        Self {
            endpoint,
            login,
            slots: Semaphore::new(AT_ONCE),
            open: Mutex::new(None),
            origin: origin(),
            serial: AtomicU32::new(0),
            changed: AtomicBool::new(false),
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint.authority
    }

    pub fn has_changed_anything(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// Asks for something; repeated when the connection was lost meanwhile.
    pub async fn read<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        decode(
            method,
            &self.send(method, &self.id(), &params, false).await?,
        )
    }

    /// Changes something; sent again only where the server has not seen it.
    pub async fn write<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        decode(method, &self.send(method, &self.id(), &params, true).await?)
    }

    /// The same under an id of the caller's, for jobs.
    pub async fn submit(
        &self,
        method: &'static str,
        id: &str,
        params: &Value,
    ) -> Result<i64, Failure> {
        decode(method, &self.send(method, id, params, true).await?)
    }

    /// An id for one call that no other call of any client has.
    pub fn id(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{serial}", self.origin)
    }

    pub async fn release(&self) -> Result<Release, Failure> {
        Ok(self.open().await?.release)
    }

    /// The calls that change something and are still under way.
    pub async fn changing(&self) -> usize {
        let open = self.open.lock().await;
        open.as_ref()
            .filter(|open| !open.connection.is_closed())
            .map_or(0, |open| open.connection.changing())
    }

    async fn send(
        &self,
        method: &'static str,
        id: &str,
        params: &Value,
        changes: bool,
    ) -> Result<Box<RawValue>, Failure> {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let text = request.to_string();
        let longest = if method == FILE {
            LONGEST_FILE
        } else {
            LONGEST
        };
        if text.chars().count() > longest {
            return Err(Failure::Setup(format!(
                "a request of {} characters is more than TrueNAS takes for {method} ({longest})",
                text.chars().count()
            )));
        }
        // Waiting for a login has a deadline of its own.
        self.open().await?;
        let work = async {
            let _slot = self.slots.acquire().await;
            self.until_answered(method, id, &text, changes).await
        };
        tokio::time::timeout(CALL, work).await.unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                doing: format!("{method} on {}", self.endpoint.authority),
                after: CALL,
            })
        })
    }

    async fn until_answered(
        &self,
        method: &'static str,
        id: &str,
        text: &str,
        changes: bool,
    ) -> Result<Box<RawValue>, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let open = self.open().await?;
            if changes {
                self.changed.store(true, Ordering::Release);
            }
            let begun = Instant::now();
            let answer = open
                .connection
                .call(id.to_owned(), text.to_owned(), changes)
                .await;
            // What is in a call or its answer may be secret.
            tracing::debug!(method, took = ?begun.elapsed(), ok = matches!(answer, Ok(Ok(_))), "call");
            match answer {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(fault)) if tries == TRIES => return Err(Failure::Refused(fault)),
                Ok(Err(fault)) if fault.too_many() => tokio::time::sleep(PAUSE).await,
                Ok(Err(fault)) if fault.logged_out() => open.connection.retire(),
                Ok(Err(fault)) => return Err(Failure::Refused(fault)),
                Err(Disconnected { end, .. }) if end.too_large => {
                    open.connection.retire();
                    return Err(Failure::TooLarge {
                        endpoint: self.endpoint.authority.clone(),
                        method,
                        limit: LARGEST as u64,
                    });
                }
                Err(Disconnected { sent, end }) => {
                    open.connection.retire();
                    if (sent && changes) || tries == TRIES {
                        return Err(Failure::Lost {
                            endpoint: self.endpoint.authority.clone(),
                            method,
                            reason: end.reason,
                        });
                    }
                }
            }
        }
    }

    /// The connection, made when there is none. The first is tried once, so
    /// that a server that is not there is told of at once; one that was lost
    /// is tried again until the caller's patience ends.
    pub async fn open(&self) -> Result<Arc<Session>, Failure> {
        let mut slot = self.open.lock().await;
        let lost = match &*slot {
            Some(open) if !open.connection.is_closed() => return Ok(Arc::clone(open)),
            Some(_) => true,
            None => false,
        };
        let mut pause = PAUSE;
        let begun = Instant::now();
        let mut crowded = CROWDED_PAUSE;
        loop {
            match self.connect().await {
                Ok(open) => {
                    let open = Arc::new(open);
                    *slot = Some(Arc::clone(&open));
                    return Ok(open);
                }
                Err(failure @ Failure::Unreachable { .. }) if lost && pause < LONGEST_PAUSE => {
                    tracing::debug!(%failure, "connecting again");
                    tokio::time::sleep(jittered(pause)).await;
                    pause *= 2;
                }
                Err(failure @ Failure::Crowded { .. }) if begun.elapsed() + crowded < CROWDED => {
                    tracing::debug!(%failure, "logging in again");
                    tokio::time::sleep(jittered(crowded)).await;
                    crowded = (crowded * 2).min(LONGEST_PAUSE);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let connection = Connection::open(&self.endpoint).await?;
        auth::log_in(connection, &self.endpoint.authority, &self.login, || {
            self.id()
        })
        .await
    }
}

pub(super) fn decode<T: DeserializeOwned>(method: &str, raw: &RawValue) -> Result<T, Failure> {
    serde_json::from_str(raw.get()).map_err(|e| Failure::Protocol(format!("{method}: {e}")))
}

/// Up to a quarter more or less, so that clients do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 512;
    pause.mul_f64(0.75 + f64::from(u16::try_from(chance).unwrap_or(0)) / 1024.0)
}

fn origin() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("px{:016x}", hasher.finish())
}
