//! The stdio transport for one client: one JSON message per line on standard
//! input and output.
//!
//! All clients of a user share a server. Each client request is sent as an HTTP
//! request over the server's Unix socket, on a separate connection. If no
//! server is listening, this process starts a server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST};
use axum::http::{Request, Response};
use bytes::BytesMut;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sse_stream::SseStream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::codec::{Decoder, FramedRead, LinesCodec, LinesCodecError};
use tokio_util::task::AbortOnDropHandle;

use super::http::{BUSY, MAX_CALLS, MAX_MESSAGE};
use super::truncate;
use crate::model::{Size, lock};

// Error codes of JSON-RPC 2.0. SERVER_ERROR is in the range for servers.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const INTERNAL_ERROR: i32 = -32603;
const SERVER_ERROR: i32 = -32000;
const VERSION: &str = "MCP-Protocol-Version";
/// Number of messages that may wait to be written.
const QUEUE: usize = 64;
/// Maximum bytes of a server response.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;
/// Number of attempts to connect: a new server needs a moment to listen.
const ATTEMPTS: u32 = 20;
const RETRY_DELAY: Duration = Duration::from_millis(100);

struct Bridge {
    socket: PathBuf,
    path: String,
    start_server: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The protocol version that client and server have negotiated.
    version: Mutex<Option<String>>,
    to_client: mpsc::Sender<Value>,
}

/// Forwards messages until the end of the input, then cancels unanswered calls.
///
/// Calls `start_server` if no server accepts connections on the socket.
/// `start_server` returns at once, and succeeds if this or another process
/// starts a server.
pub async fn run(
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    socket: &Path,
    path: &str,
    start_server: impl Fn() -> Result<(), String> + Send + Sync + 'static,
) -> io::Result<()> {
    let (to_client, messages) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(write(output, messages));
    let bridge = Arc::new(Bridge {
        socket: socket.to_owned(),
        path: path.to_owned(),
        start_server: Box::new(start_server),
        version: Mutex::new(None),
        to_client,
    });
    let codec = LinesCodec::new_with_max_length(MAX_MESSAGE);
    let mut lines = FramedRead::new(input, Lines(codec));
    // Two calls of a client may have the same id.
    let mut calls: Vec<(Value, AbortOnDropHandle<()>)> = Vec::new();
    while let Some(line) = lines.next().await {
        let line = match line? {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => line,
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                let max = Size(MAX_MESSAGE as u64);
                let text = format!("this line is longer than {max}");
                bridge.refuse(Value::Null, INVALID_REQUEST, &text).await;
                continue;
            }
            Err(LinesCodecError::Io(_)) => String::new(),
        };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            let text = "this line is not a JSON message";
            bridge.refuse(Value::Null, PARSE_ERROR, text).await;
            continue;
        };
        let id = message.get("id").cloned().unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default();
        // Without HTTP sessions, other notifications have no effect.
        if method == "notifications/cancelled" && id.is_null() {
            let cancelled = &message["params"]["requestId"];
            calls.retain(|(id, _)| id != cancelled);
        } else if !method.is_empty() && !id.is_null() {
            calls.retain(|(_, call)| !call.is_finished());
            if calls.len() >= MAX_CALLS {
                bridge.refuse(id, SERVER_ERROR, BUSY).await;
                continue;
            }
            let call = tokio::spawn(bridge.clone().call(id.clone(), line));
            calls.push((id, AbortOnDropHandle::new(call)));
        }
    }
    drop(calls);
    // Dropping the bridge ends the writer task.
    drop(bridge);
    let _ = writer.await;
    Ok(())
}

/// Splits the input into lines. A line that is too long or not UTF-8 is
/// returned as an item, because an error would end the stream.
struct Lines(LinesCodec);

impl Decoder for Lines {
    type Item = Result<String, LinesCodecError>;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Self::Item>> {
        Ok(self.0.decode(buffer).transpose())
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Self::Item>> {
        Ok(self.0.decode_eof(buffer).transpose())
    }
}

async fn write(
    mut output: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<Value>,
) -> io::Result<()> {
    while let Some(message) = messages.recv().await {
        output.write_all(format!("{message}\n").as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

impl Bridge {
    async fn send(&self, message: Value) {
        // Fails if the client has closed the pipe and reads no messages.
        let _ = self.to_client.send(message).await;
    }

    async fn refuse(&self, id: Value, code: i32, text: &str) {
        let error = json!({"code": code, "message": text});
        self.send(json!({"jsonrpc": "2.0", "id": id, "error": error}))
            .await;
    }

    async fn call(self: Arc<Self>, id: Value, message: String) {
        if let Err(reason) = self.forward(message).await {
            self.refuse(id, INTERNAL_ERROR, &reason).await;
        }
    }

    /// Sends a request to the server, and the response messages to the client.
    /// If this future is dropped, its connection is closed, and the server
    /// cancels the call.
    async fn forward(&self, message: String) -> Result<(), String> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(connection_lost)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = self.request(message).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await;
        self.respond(response.map_err(connection_lost)?).await
    }

    async fn connect(&self) -> Result<UnixStream, String> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => reason = error.to_string(),
            }
            (self.start_server)()?;
            tokio::time::sleep(RETRY_DELAY).await;
        }
        let socket = self.socket.display();
        Err(format!("cannot reach the server at {socket}: {reason}"))
    }

    fn request(&self, message: String) -> axum::http::Result<Request<Body>> {
        let mut request = Request::post(&self.path)
            .header(HOST, "pixels")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json");
        let version = lock(&self.version);
        if let Some(version) = &*version {
            request = request.header(VERSION, version);
        }
        request.body(Body::from(message))
    }

    async fn respond(&self, response: Response<Incoming>) -> Result<(), String> {
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE);
        let is_stream = kind.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"));
        let body = Body::new(Limited::new(response.into_body(), MAX_RESPONSE));
        if is_stream {
            let mut events = SseStream::new(body);
            while let Some(event) = events.next().await {
                let data = event.map_err(connection_lost)?.data.unwrap_or_default();
                if let Ok(message) = serde_json::from_str(&data) {
                    self.send(message).await;
                }
            }
            return Ok(());
        }
        let body = body.collect().await.map_err(connection_lost)?.to_bytes();
        let Ok(message) = serde_json::from_slice::<Value>(&body) else {
            let text = String::from_utf8_lossy(&body);
            let reason = format!("the server answered {status}: {text}");
            return Err(truncate::text(reason));
        };
        // The response to `initialize` contains the version.
        if let Some(version) = message["result"]["protocolVersion"].as_str() {
            *lock(&self.version) = Some(version.to_owned());
        }
        self.send(message).await;
        Ok(())
    }
}

fn connection_lost(error: impl std::error::Error) -> String {
    format!("lost the connection to the server: {error}")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn overlong_and_non_utf8_lines_do_not_end_the_stream() {
        let input = b"12345678\n123456789\n\n1234567890123456789012345\nx\n\xff\n987654321";
        let lines = FramedRead::new(&input[..], Lines(LinesCodec::new_with_max_length(8)));
        let lines: Vec<String> = lines
            .map(|line| line.unwrap().unwrap_or_else(|error| error.to_string()))
            .collect()
            .await;
        let too_long = LinesCodecError::MaxLineLengthExceeded.to_string();
        let too_long = too_long.as_str();
        let expected = [
            "12345678",
            too_long,
            "",
            too_long,
            "x",
            "Unable to decode input as UTF8",
            too_long,
        ];
        assert_eq!(lines, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_above_the_limit_are_refused_until_a_call_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        // The socket accepts connections and never answers.
        let _listener = UnixListener::bind(&socket).unwrap();
        let (mut client, input) = tokio::io::duplex(1024);
        let (output, responses) = tokio::io::duplex(1024);
        tokio::spawn(async move { run(input, output, &socket, "/mcp", || Ok(())).await });
        let mut responses = BufReader::new(responses).lines();
        let mut send = async |message: Value| {
            let line = format!("{message}\n");
            client.write_all(line.as_bytes()).await.unwrap();
        };
        // The first two calls have the same id.
        for id in (0..MAX_CALLS).map(|number| number.saturating_sub(1)) {
            send(json!({"jsonrpc": "2.0", "id": id, "method": "x"})).await;
        }
        let mut refused_id = async || {
            let line = responses.next_line();
            let line = tokio::time::timeout(Duration::from_secs(1), line).await;
            let line = line.unwrap().unwrap().unwrap();
            let response: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(response["error"]["code"], SERVER_ERROR, "{response}");
            response["id"].clone()
        };
        send(json!({"jsonrpc": "2.0", "id": "a", "method": "x"})).await;
        assert_eq!(refused_id().await, "a");
        let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                               "params": {"requestId": 0}});
        send(cancelled).await;
        for id in ["b", "c", "d"] {
            send(json!({"jsonrpc": "2.0", "id": id, "method": "x"})).await;
        }
        assert_eq!(refused_id().await, "d");
    }
}
