//! One connection: a task that owns the WebSocket, sends what it is handed,
//! and gives every answer to whoever asked, in whatever order they come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::endpoint::Endpoint;
use super::error::{Failure, RpcError, RpcFault};
use super::job::JobTracker;
use crate::backend::tls;
use crate::model::Reason;

/// TCP, TLS and the upgrade together.
const CONNECT: Duration = Duration::from_secs(10);
/// The server's proxy cuts a connection that is silent for a minute.
const PING: Duration = Duration::from_secs(20);
/// Sooner where an answer is waited for: is the other side still there?
const DOUBT: Duration = Duration::from_secs(5);
/// A peer that has not answered a ping by then is gone.
const PONG: Duration = Duration::from_secs(10);
const SEND: Duration = Duration::from_secs(10);
/// Of a message and a frame; no answer that is of use is larger.
pub(super) const LARGEST: usize = 64 << 20;
/// What waits to be sent: more than the largest request, of which there is one
/// at a time, and answers to pings that nobody reads.
const UNSENT: usize = 16 << 20;

pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

type Socket = WebSocketStream<Box<dyn ByteStream>>;

/// How a call ended without an answer of the server's.
#[derive(Debug)]
pub(super) struct Disconnected {
    /// Whether the server may have seen the call.
    pub sent: bool,
    pub end: CloseReason,
}

/// Why a connection ended.
#[derive(Debug, Clone)]
pub(super) struct CloseReason {
    pub reason: String,
    /// The server wanted to send more than [`LARGEST`] at once.
    pub too_large: bool,
}

impl<T: Into<String>> From<T> for CloseReason {
    fn from(reason: T) -> Self {
        Self {
            reason: reason.into(),
            too_large: false,
        }
    }
}

pub(super) type Answer = Result<Result<Box<RawValue>, RpcFault>, Disconnected>;

struct Outgoing {
    id: String,
    text: String,
    changes: bool,
    to: oneshot::Sender<Answer>,
}

#[derive(Debug)]
pub(super) struct Connection {
    calls: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    closed: AtomicBool,
    /// Calls that change something and have no answer yet, also those whose
    /// callers gave up.
    changing: AtomicUsize,
    /// Once it has ended.
    end: Mutex<Option<CloseReason>>,
    jobs: Arc<JobTracker>,
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
        let socket = match tokio::time::timeout(CONNECT, connect(endpoint)).await {
            Ok(socket) => socket?,
            Err(_) => {
                return Err(Failure::Unreachable {
                    endpoint: endpoint.authority.clone(),
                    reason: format!("no connection within {} s", CONNECT.as_secs()).into(),
                });
            }
        };
        let shared = Arc::new(Shared::default());
        let (calls, queue) = mpsc::channel(16);
        tokio::spawn(serve(socket, queue, Arc::clone(&shared)));
        Ok(Self { calls, shared })
    }

    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Takes no further calls; those under way are still answered.
    pub fn retire(&self) {
        self.shared.closed.store(true, Ordering::Release);
    }

    pub fn changing(&self) -> usize {
        self.shared.changing.load(Ordering::Acquire)
    }

    pub fn jobs(&self) -> &Arc<JobTracker> {
        &self.shared.jobs
    }

    /// `text` is the whole request, whose id is `id`. Whoever stops waiting
    /// leaves the call under way.
    pub async fn call(&self, id: String, text: String, changes: bool) -> Answer {
        let (to, answer) = oneshot::channel();
        let call = Outgoing {
            id,
            text,
            changes,
            to,
        };
        let gone = |sent| Disconnected {
            sent,
            end: self.shared.end(),
        };
        if self.calls.send(call).await.is_err() {
            return Err(gone(false));
        }
        // A call that never left the queue is dropped with it.
        answer.await.unwrap_or_else(|_| Err(gone(false)))
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Socket, Failure> {
    let unreachable = |reason: String| Failure::Unreachable {
        endpoint: endpoint.authority.clone(),
        reason: reason.into(),
    };
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|e| unreachable(e.to_string()))?;
    let _ = tcp.set_nodelay(true);
    let stream: Box<dyn ByteStream> =
        match &endpoint.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = rustls::pki_types::ServerName::try_from(endpoint.host.clone())
                    .map_err(|e| Failure::Setup(format!("truenas.host: {e}")))?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
                let stream = connector.connect(name, tcp).await.map_err(|e| {
                    match tls::untrusted_certificate(&e) {
                    Some(reason) => Failure::Unreachable {
                        endpoint: endpoint.authority.clone(),
                        reason: Reason::from(reason).with_hint(
                            "compare the fingerprint on the server, then set truenas.fingerprint \
                             to the SHA-256 of its certificate",
                        ),
                    },
                    None => unreachable(e.to_string()),
                }
                })?;
                Box::new(stream)
            }
        };
    // The TLS is ours already; the scheme only has to be one that is taken.
    let request = format!("ws://{}/api/current", endpoint.authority)
        .into_client_request()
        .map_err(|e| Failure::Setup(format!("truenas.host: {e}")))?;
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config())).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(answer)) => Err(unreachable(format!(
            "it is no API of TrueNAS 25.04 or later (HTTP status {})",
            answer.status().as_u16()
        ))),
        Err(WsError::Protocol(error)) => Err(unreachable(format!(
            "it is no API of TrueNAS 25.04 or later ({error})"
        ))),
        Err(error) => Err(unreachable(error.to_string())),
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST))
        .max_write_buffer_size(UNSENT)
}

pub(super) struct Pending {
    pub changes: bool,
    pub to: oneshot::Sender<Answer>,
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

/// Owns the socket until it ends; then nothing is left unanswered.
async fn serve(mut socket: Socket, mut queue: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    let mut pending: HashMap<String, Pending> = HashMap::new();
    let end = exchange(&mut socket, &mut queue, &mut pending, &shared).await;
    tracing::debug!(end.reason, "connection to TrueNAS ended");
    *shared.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end.clone());
    shared.closed.store(true, Ordering::Release);
    queue.close();
    for (_, waiting) in pending.drain() {
        settle(&shared, waiting.changes);
        let broken = Disconnected {
            sent: true,
            end: end.clone(),
        };
        let _ = waiting.to.send(Err(broken));
    }
    shared.jobs.wake();
}

async fn exchange(
    socket: &mut Socket,
    queue: &mut mpsc::Receiver<Outgoing>,
    pending: &mut HashMap<String, Pending>,
    shared: &Shared,
) -> CloseReason {
    let mut on_event = Instant::now();
    let mut overdue: Option<Instant> = None;
    loop {
        let quiet = if pending.is_empty() { PING } else { DOUBT };
        let ping = async {
            match overdue {
                None => tokio::time::sleep_until(on_event + quiet).await,
                Some(_) => std::future::pending().await,
            }
        };
        let silence = async {
            match overdue {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            frame = socket.next() => {
                on_event = Instant::now();
                overdue = None;
                match received(frame) {
                    Ok(Some(text)) => take(&text, pending, shared),
                    Ok(None) => {}
                    Err(end) => return end,
                }
            }
            call = queue.recv() => match call {
                // Nobody is left who could call.
                None => {
                    let _ = tokio::time::timeout(SEND, socket.close(None)).await;
                    return "no longer needed".into();
                }
                Some(call) => {
                    if call.changes {
                        shared.changing.fetch_add(1, Ordering::AcqRel);
                    }
                    let waiting = Pending { changes: call.changes, to: call.to };
                    pending.insert(call.id, waiting);
                    if let Err(reason) = send(socket, Message::text(call.text)).await {
                        return reason.into();
                    }
                }
            },
            () = ping => {
                if let Err(reason) = send(socket, Message::Ping(Default::default())).await {
                    return reason.into();
                }
                overdue = Some(Instant::now() + PONG);
            }
            () = silence => {
                return format!("no answer to a ping for {} s", PONG.as_secs()).into();
            }
        }
    }
}

/// The text of a frame that has one, or why there will be no more frames.
fn received(frame: Option<Result<Message, WsError>>) -> Result<Option<Utf8Bytes>, CloseReason> {
    match frame {
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Close(Some(frame)))) => {
            Err(format!("it was closed ({} {})", frame.code, frame.reason).into())
        }
        Some(Ok(Message::Close(None))) => Err("it was closed".into()),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(CloseReason {
            reason: error.to_string(),
            too_large: matches!(error, WsError::Capacity(_)),
        }),
        None => Err("the connection closed".into()),
    }
}

async fn send(socket: &mut Socket, message: Message) -> Result<(), String> {
    match tokio::time::timeout(SEND, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing could be sent for {} s", SEND.as_secs())),
    }
}

pub(super) fn take(text: &str, pending: &mut HashMap<String, Pending>, shared: &Shared) {
    let incoming: Incoming<'_> = match serde_json::from_str(text) {
        Ok(incoming) => incoming,
        Err(error) => {
            tracing::debug!(%error, "a message that is none");
            return;
        }
    };
    if incoming.method.as_deref() == Some("collection_update") {
        if let Some(params) = incoming.params {
            shared.jobs.note(params.get());
        }
        return;
    }
    let Some(waiting) = incoming.id.and_then(|id| pending.remove(&id)) else {
        return;
    };
    settle(shared, waiting.changes);
    let answer = match (incoming.result, incoming.error) {
        (_, Some(error)) => Err(RpcFault::from_call(error)),
        (Some(result), None) => Ok(result.to_owned()),
        // A result of null.
        (None, None) => Ok(null()),
    };
    let _ = waiting.to.send(Ok(answer));
}

fn null() -> Box<RawValue> {
    RawValue::from_string("null".into()).unwrap_or_default()
}

fn settle(shared: &Shared, changes: bool) {
    if changes {
        shared.changing.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_too_large_ends_all_calls_with_that() {
        let (near, mut server) = tokio::io::duplex(64);
        let near: Box<dyn ByteStream> = Box::new(near);
        let socket = WebSocketStream::from_raw_socket(near, Role::Client, Some(config())).await;
        let shared = Arc::new(Shared::default());
        let (calls, queue) = mpsc::channel(1);
        tokio::spawn(serve(socket, queue, Arc::clone(&shared)));
        let connection = Connection { calls, shared };
        let call = connection.call("1".into(), "{}".into(), false);
        // The header of a frame that is one byte too long, and no frame.
        let mut header = vec![0x81, 127];
        header.extend((LARGEST as u64 + 1).to_be_bytes());
        let answering = async {
            // The call is there.
            server.read_u8().await.unwrap();
            server.write_all(&header).await.unwrap();
        };
        let (answer, ()) = tokio::join!(call, answering);
        let broken = answer.unwrap_err();
        assert!(broken.sent && broken.end.too_large, "{broken:?}");
        let later = connection.call("2".into(), "{}".into(), false).await;
        assert!(later.unwrap_err().end.too_large);
    }
}
