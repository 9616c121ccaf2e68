//! One client on our own input and output, a JSON message a line, joined to
//! the server of this user over its socket: that of another process, or our
//! own where there is none. So any number of clients share one server.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST};
use axum::http::{Method, Request, Response};
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::http::{BUSY, MESSAGE, REQUESTS};
use super::line_reader::{Line, Lines};
use super::sse::Events;
use crate::model::Size;

// The protocol's codes.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const INTERNAL_ERROR: i32 = -32603;
const SERVER_ERROR: i32 = -32000;
const VERSION: &str = "MCP-Protocol-Version";
/// Messages that wait to be written.
const QUEUE: usize = 64;
/// Of an answer of the server's.
const ANSWER: usize = 64 * 1024 * 1024;
/// A server that is being taken over needs a moment.
const ATTEMPTS: u32 = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Sees to it that a server listens on the socket.
pub trait ServerLauncher: Send + Sync + 'static {
    fn ensure(&self) -> impl Future<Output = Result<(), String>> + Send;
}

struct Bridge<E> {
    socket: PathBuf,
    path: String,
    ensure: E,
    /// What the client and the server agreed on.
    version: Mutex<Option<String>>,
    /// Calls under way, with their ids as text; an id may come again.
    calls: Mutex<HashMap<u64, (String, AbortHandle)>>,
    /// Calls so far.
    begun: AtomicU64,
}

/// Passes messages on until the client closes its end.
pub async fn run<E: ServerLauncher>(
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    socket: &Path,
    path: &str,
    ensure: E,
) -> io::Result<()> {
    let bridge = Arc::new(Bridge {
        socket: socket.to_owned(),
        path: path.to_owned(),
        ensure,
        version: Mutex::new(None),
        calls: Mutex::new(HashMap::new()),
        begun: AtomicU64::new(0),
    });
    let (to_client, messages) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(write(output, messages));
    let mut lines = Lines::new(BufReader::new(input));
    while let Some(line) = lines.next().await? {
        let message = match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => continue,
            Line::Whole(line) => serde_json::from_slice::<Value>(&line)
                .map_err(|_| (PARSE_ERROR, "this line is no JSON message".to_owned())),
            Line::TooLong => {
                let most = Size(MESSAGE as u64);
                Err((INVALID_REQUEST, format!("this line is longer than {most}")))
            }
        };
        let message = match message {
            Ok(message) => message,
            Err((code, text)) => {
                let _ = to_client.send(refusal(&Value::Null, code, &text)).await;
                continue;
            }
        };
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let id = message.get("id").filter(|id| !id.is_null()).cloned();
        match id {
            Some(id) if !method.is_empty() => {
                if let Err(id) = bridge.clone().call(id, &method, message, &to_client) {
                    let _ = to_client.send(refusal(&id, SERVER_ERROR, BUSY)).await;
                }
            }
            // Requests stand by themselves: nothing else concerns the server.
            _ if method == "notifications/cancelled" => {
                bridge.cancel(&message["params"]["requestId"]);
            }
            _ => {}
        }
    }
    // Nobody is left to read the answers.
    for (_, call) in bridge.lock().values() {
        call.abort();
    }
    drop(to_client);
    let _ = writer.await;
    Ok(())
}

fn refusal(id: &Value, code: i32, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

async fn write(
    mut output: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<Value>,
) -> io::Result<()> {
    while let Some(message) = messages.recv().await {
        let mut line = message.to_string();
        line.push('\n');
        output.write_all(line.as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

impl<E: ServerLauncher> Bridge<E> {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, (String, AbortHandle)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call, or gives its id back where there are too many.
    fn call(
        self: Arc<Self>,
        id: Value,
        method: &str,
        message: Value,
        to_client: &mpsc::Sender<Value>,
    ) -> Result<(), Value> {
        let (key, own) = (id.to_string(), self.begun.fetch_add(1, Ordering::Relaxed));
        let opening = method == "initialize";
        let (bridge, to_client) = (self.clone(), to_client.clone());
        // Held until the call is on the list, so that it is taken off after that.
        let mut calls = self.lock();
        if calls.len() >= REQUESTS {
            return Err(id);
        }
        let task = tokio::spawn(async move {
            if let Err(reason) = bridge.pass(&message, opening, &to_client).await {
                let answer = refusal(&id, INTERNAL_ERROR, &reason);
                let _ = to_client.send(answer).await;
            }
            bridge.lock().remove(&own);
        });
        calls.insert(own, (key, task.abort_handle()));
        Ok(())
    }

    /// The server ends a call whose connection is closed.
    fn cancel(&self, id: &Value) {
        let given_up = id.to_string();
        self.lock().retain(|_, (id, call)| {
            let other = *id != given_up;
            if !other {
                call.abort();
            }
            other
        });
    }

    async fn pass(
        &self,
        message: &Value,
        opening: bool,
        to_client: &mpsc::Sender<Value>,
    ) -> Result<(), String> {
        let lost = |e: &dyn std::error::Error| format!("the connection to the server broke: {e}");
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| lost(&e))?;
        let request = self.request(message)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
            self.answer(response, opening, to_client).await
        };
        tokio::pin!(exchange, connection);
        let mut ended = false;
        loop {
            // Dropped together: a call that is given up closes its connection.
            tokio::select! {
                outcome = &mut exchange => return outcome,
                _ = &mut connection, if !ended => ended = true,
            }
        }
    }

    async fn connect(&self) -> Result<UnixStream, String> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => reason = error.to_string(),
            }
            self.ensure.ensure().await?;
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("no server can be reached: {reason}"))
    }

    fn request(&self, message: &Value) -> Result<Request<Body>, String> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(HOST, "pixels")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json");
        let agreed = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(version) = &*agreed {
            request = request.header(VERSION, version);
        }
        request
            .body(Body::from(message.to_string()))
            .map_err(|e| e.to_string())
    }

    async fn answer(
        &self,
        response: Response<Incoming>,
        opening: bool,
        to_client: &mpsc::Sender<Value>,
    ) -> Result<(), String> {
        let status = response.status();
        let streamed = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        let mut body = Body::new(response.into_body()).into_data_stream();
        let lost = |e: axum::Error| format!("the connection to the server broke: {e}");
        if streamed {
            let mut events = Events::default();
            while let Some(chunk) = body.next().await {
                for message in events.take(&chunk.map_err(lost)?) {
                    let _ = to_client.send(message).await;
                }
                bounded(events.held())?;
            }
            return Ok(());
        }
        let mut whole = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(lost)?;
            bounded(whole.len() + chunk.len())?;
            whole.extend_from_slice(&chunk);
        }
        let Ok(answer) = serde_json::from_slice::<Value>(&whole) else {
            let text = String::from_utf8_lossy(&whole);
            return Err(format!("the server answered {status}: {text}"));
        };
        if opening && let Some(version) = answer["result"]["protocolVersion"].as_str() {
            let mut agreed = self.version.lock().unwrap_or_else(PoisonError::into_inner);
            *agreed = Some(version.to_owned());
        }
        let _ = to_client.send(answer).await;
        Ok(())
    }
}

fn bounded(length: usize) -> Result<(), String> {
    if length <= ANSWER {
        return Ok(());
    }
    let most = Size(ANSWER as u64);
    Err(format!("the answer of the server is larger than {most}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncBufReadExt;

    use super::*;

    /// The server is always about to come.
    struct Soon;

    impl ServerLauncher for Soon {
        async fn ensure(&self) -> Result<(), String> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_without_number_are_refused_until_one_has_ended() {
        let (mut client, input) = tokio::io::duplex(1024);
        let (output, answers) = tokio::io::duplex(1024);
        let nowhere = Path::new("/nowhere/at/all.sock");
        tokio::spawn(run(input, output, nowhere, "/mcp", Soon));
        let mut answers = BufReader::new(answers).lines();
        let mut send = async |message: Value| {
            let line = format!("{message}\n");
            client.write_all(line.as_bytes()).await.unwrap();
        };
        // An id that comes again is another call.
        for id in (0..REQUESTS).map(|number| number.saturating_sub(1)) {
            send(json!({"jsonrpc": "2.0", "id": id, "method": "x"})).await;
        }
        let mut refused = async || {
            let line = answers.next_line();
            // On a clock that stands still: passed when there will be none.
            let line = tokio::time::timeout(Duration::from_secs(1), line).await;
            let line = line.unwrap().unwrap().unwrap();
            let answer: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(answer["error"]["code"], SERVER_ERROR, "{answer}");
            answer["id"].clone()
        };
        send(json!({"jsonrpc": "2.0", "id": "a", "method": "x"})).await;
        assert_eq!(refused().await, "a");
        let over = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                          "params": {"requestId": 0}});
        send(over).await;
        for id in ["b", "c", "d"] {
            send(json!({"jsonrpc": "2.0", "id": id, "method": "x"})).await;
        }
        assert_eq!(refused().await, "d");
    }
}
