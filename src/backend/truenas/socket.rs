//! A connection: a task owns the WebSocket, sends calls, and passes each
//! response to the caller. Responses may arrive in any order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::connect::{Socket, connect};
use super::endpoint::Endpoint;
use super::error::Failure;
use super::fault::{RpcError, RpcFault};
use super::job_events::JobTracker;

/// Interval between pings. The server's proxy closes idle connections.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Interval between pings while a call waits for a response.
const PING_INTERVAL_DURING_CALL: Duration = Duration::from_secs(5);
/// Deadline for a pong, after which the connection counts as lost.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum attempts of a call if the server reports too many concurrent calls.
pub(super) const MAX_ATTEMPTS: u32 = 4;
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The connection ended before the response to a call.
#[derive(Debug)]
pub(super) struct Disconnected {
    /// Whether the server may have received the call.
    pub sent: bool,
    pub end: CloseReason,
}

/// The reason why a connection ended.
#[derive(Debug, Clone)]
pub(super) struct CloseReason {
    pub reason: String,
    /// The code in the server's close frame.
    pub code: Option<u16>,
    /// The server sent a message larger than the limit.
    pub too_large: bool,
}

impl<T: Into<String>> From<T> for CloseReason {
    fn from(reason: T) -> Self {
        Self {
            reason: reason.into(),
            code: None,
            too_large: false,
        }
    }
}

pub(super) type Response = Result<Result<Box<RawValue>, RpcFault>, Disconnected>;

struct Call {
    id: String,
    text: String,
    writes: bool,
    response: oneshot::Sender<Response>,
}

#[derive(Debug)]
pub(super) struct Connection {
    calls: mpsc::Sender<Call>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    closed: AtomicBool,
    /// Number of writes without a response, including writes whose callers stopped
    /// waiting.
    pending_writes: AtomicUsize,
    /// The reason, set after the connection has ended.
    end: Mutex<Option<CloseReason>>,
    jobs: JobTracker,
}

impl Shared {
    fn end(&self) -> CloseReason {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.clone()
            .unwrap_or_else(|| "the connection closed".into())
    }
}

impl Connection {
    pub async fn open(endpoint: &Endpoint) -> Result<Self, Failure> {
        Ok(Self::start(connect(endpoint).await?))
    }

    fn start(socket: Socket) -> Self {
        let shared = Arc::new(Shared::default());
        let (calls, queue) = mpsc::channel(16);
        tokio::spawn(serve(socket, queue, Arc::clone(&shared)));
        Self { calls, shared }
    }

    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Closes the connection for new calls. Pending calls still receive their
    /// responses.
    pub fn retire(&self) {
        self.shared.closed.store(true, Ordering::Release);
    }

    pub fn pending_writes(&self) -> usize {
        self.shared.pending_writes.load(Ordering::Acquire)
    }

    pub fn jobs(&self) -> &JobTracker {
        &self.shared.jobs
    }

    /// Sends a request and waits for the response. `text` is the complete request
    /// with this `id`. Dropping the future does not cancel the call.
    pub async fn call(&self, id: String, text: String, writes: bool) -> Response {
        let (response, receiver) = oneshot::channel();
        let call = Call {
            id,
            text,
            writes,
            response,
        };
        let disconnected = |sent| Disconnected {
            sent,
            end: self.shared.end(),
        };
        if self.calls.send(call).await.is_err() {
            return Err(disconnected(false));
        }
        // Dropping the sender means that the call was still in the queue.
        receiver.await.unwrap_or_else(|_| Err(disconnected(false)))
    }
}

pub(super) struct Pending {
    pub writes: bool,
    pub response: oneshot::Sender<Response>,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    id: Option<String>,
    method: Option<String>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// Owns the socket until the connection ends. Then fails all pending calls.
async fn serve(mut socket: Socket, mut queue: mpsc::Receiver<Call>, shared: Arc<Shared>) {
    let mut pending: HashMap<String, Pending> = HashMap::new();
    let end = exchange(&mut socket, &mut queue, &mut pending, &shared).await;
    tracing::debug!(end.reason, "connection to TrueNAS ended");
    *shared.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end.clone());
    shared.closed.store(true, Ordering::Release);
    queue.close();
    for (_, call) in pending.drain() {
        finish_write(&shared, call.writes);
        let disconnected = Disconnected {
            sent: true,
            end: end.clone(),
        };
        let _ = call.response.send(Err(disconnected));
    }
    shared.jobs.wake();
}

async fn exchange(
    socket: &mut Socket,
    queue: &mut mpsc::Receiver<Call>,
    pending: &mut HashMap<String, Pending>,
    shared: &Shared,
) -> CloseReason {
    let mut last_received = Instant::now();
    let mut pong_deadline: Option<Instant> = None;
    loop {
        let interval = if pending.is_empty() {
            PING_INTERVAL
        } else {
            PING_INTERVAL_DURING_CALL
        };
        let deadline = pong_deadline.unwrap_or(last_received + interval);
        tokio::select! {
            frame = socket.next() => {
                last_received = Instant::now();
                pong_deadline = None;
                match text_of(frame) {
                    Ok(Some(text)) => dispatch(&text, pending, shared),
                    Ok(None) => {}
                    Err(end) => return end,
                }
            }
            call = queue.recv() => match call {
                // The `Connection` was dropped.
                None => {
                    let _ = tokio::time::timeout(SEND_TIMEOUT, socket.close(None)).await;
                    return "no longer needed".into();
                }
                Some(call) => {
                    if call.writes {
                        shared.pending_writes.fetch_add(1, Ordering::AcqRel);
                    }
                    let waiting = Pending { writes: call.writes, response: call.response };
                    pending.insert(call.id, waiting);
                    if let Err(reason) = send(socket, Message::text(call.text)).await {
                        return reason.into();
                    }
                }
            },
            () = tokio::time::sleep_until(deadline) => {
                if pong_deadline.is_some() {
                    return format!("no pong for {} s", PONG_TIMEOUT.as_secs()).into();
                }
                if let Err(reason) = send(socket, Message::Ping(Default::default())).await {
                    return reason.into();
                }
                pong_deadline = Some(Instant::now() + PONG_TIMEOUT);
            }
        }
    }
}

/// Returns the text of a text frame. Fails at the end of the connection.
fn text_of(frame: Option<Result<Message, WsError>>) -> Result<Option<Utf8Bytes>, CloseReason> {
    match frame {
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Close(Some(frame)))) => Err(CloseReason {
            reason: format!(
                "the server closed the connection ({} {})",
                frame.code, frame.reason
            ),
            code: Some(frame.code.into()),
            too_large: false,
        }),
        Some(Ok(Message::Close(None))) => Err("the server closed the connection".into()),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(CloseReason {
            reason: error.to_string(),
            code: None,
            too_large: matches!(error, WsError::Capacity(_)),
        }),
        None => Err("the connection closed".into()),
    }
}

async fn send(socket: &mut Socket, message: Message) -> Result<(), String> {
    match tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("could not send for {} s", SEND_TIMEOUT.as_secs())),
    }
}

/// Passes a response to the caller, or an event to the job tracker. Ignores
/// other messages.
pub(super) fn dispatch(text: &str, pending: &mut HashMap<String, Pending>, shared: &Shared) {
    let incoming: Incoming<'_> = match serde_json::from_str(text) {
        Ok(incoming) => incoming,
        Err(error) => {
            tracing::debug!(%error, "invalid message");
            return;
        }
    };
    if incoming.method.as_deref() == Some("collection_update") {
        if let Some(params) = incoming.params {
            shared.jobs.record(params.get());
        }
        return;
    }
    let Some(call) = incoming.id.and_then(|id| pending.remove(&id)) else {
        return;
    };
    finish_write(shared, call.writes);
    let response = match (incoming.result, incoming.error) {
        (_, Some(error)) => Err(RpcFault::from_call(error)),
        (Some(result), None) => Ok(result.to_owned()),
        // serde decodes `"result": null` as a missing field.
        (None, None) => Ok(RawValue::NULL.to_owned()),
    };
    let _ = call.response.send(Ok(response));
}

fn finish_write(shared: &Shared, writes: bool) {
    if writes {
        shared.pending_writes.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::connect::{MAX_MESSAGE, config};
    use super::*;
    use crate::backend::tls::ByteStream;

    #[tokio::test]
    async fn oversized_response_fails_all_calls() {
        let (client, mut server) = tokio::io::duplex(64);
        let client: Box<dyn ByteStream> = Box::new(client);
        let socket = WebSocketStream::from_raw_socket(client, Role::Client, Some(config())).await;
        let connection = Connection::start(socket);
        let call = connection.call("1".into(), "{}".into(), false);
        // The header of a frame that exceeds the limit by one byte.
        let mut header = vec![0x81, 127];
        header.extend((MAX_MESSAGE as u64 + 1).to_be_bytes());
        let responding = async {
            // Wait until the server receives the call.
            server.read_u8().await.unwrap();
            server.write_all(&header).await.unwrap();
        };
        let (response, ()) = tokio::join!(call, responding);
        let disconnected = response.unwrap_err();
        assert!(
            disconnected.sent && disconnected.end.too_large,
            "{disconnected:?}"
        );
        let later = connection.call("2".into(), "{}".into(), false).await;
        assert!(later.unwrap_err().end.too_large);
    }
}
