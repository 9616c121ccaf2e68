//! One client on our own input and output, a JSON message a line, joined to
//! the server of this user over its socket: that of another process, or our
//! own where there is none. So any number of clients share one server.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST};
use axum::http::{Method, Request, Response};
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

const VERSION: &str = "MCP-Protocol-Version";
/// Messages that wait to be written.
const QUEUE: usize = 64;
/// A server that is being taken over needs a moment.
const ATTEMPTS: u32 = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Sees to it that a server listens on the socket.
pub trait Ensure: Send + Sync + 'static {
    fn ensure(&self) -> impl Future<Output = Result<(), String>> + Send;
}

struct Bridge<E> {
    socket: PathBuf,
    path: String,
    ensure: E,
    /// What the client and the server agreed on.
    version: Mutex<Option<String>>,
    /// Calls under way, by their id as text.
    calls: Mutex<HashMap<String, AbortHandle>>,
}

/// Passes messages on until the client closes its end.
pub async fn run<E: Ensure>(
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
    });
    let (to_client, messages) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(write(output, messages));
    let mut lines = BufReader::new(input).lines();
    while let Some(line) = lines.next_line().await? {
        if line.trim().is_empty() {
            continue;
        }
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            let error = json!({"code": -32700, "message": "this line is no JSON message"});
            let answer = json!({"jsonrpc": "2.0", "id": null, "error": error});
            let _ = to_client.send(answer).await;
            continue;
        };
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let id = message.get("id").filter(|id| !id.is_null()).cloned();
        match id {
            Some(id) if !method.is_empty() => bridge.clone().call(id, &method, message, &to_client),
            // Requests stand by themselves: nothing else concerns the server.
            _ if method == "notifications/cancelled" => {
                bridge.cancel(&message["params"]["requestId"]);
            }
            _ => {}
        }
    }
    // Nobody is left to read the answers.
    for call in bridge.lock().values() {
        call.abort();
    }
    drop(to_client);
    let _ = writer.await;
    Ok(())
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

impl<E: Ensure> Bridge<E> {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(
        self: Arc<Self>,
        id: Value,
        method: &str,
        message: Value,
        to_client: &mpsc::Sender<Value>,
    ) {
        let key = id.to_string();
        let opening = method == "initialize";
        let (bridge, to_client, own) = (self.clone(), to_client.clone(), key.clone());
        // Held until the call is on the list, so that it is taken off after that.
        let mut calls = self.lock();
        let task = tokio::spawn(async move {
            if let Err(reason) = bridge.pass(&message, opening, &to_client).await {
                let error = json!({"code": -32603, "message": reason});
                let answer = json!({"jsonrpc": "2.0", "id": id, "error": error});
                let _ = to_client.send(answer).await;
            }
            bridge.lock().remove(&own);
        });
        calls.insert(key, task.abort_handle());
    }

    /// The server ends a call whose connection is closed.
    fn cancel(&self, id: &Value) {
        if let Some(call) = self.lock().remove(&id.to_string()) {
            call.abort();
        }
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
            }
            return Ok(());
        }
        let mut whole = Vec::new();
        while let Some(chunk) = body.next().await {
            whole.extend_from_slice(&chunk.map_err(lost)?);
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

/// Takes the messages out of an event stream.
#[derive(Default)]
pub(super) struct Events(Vec<u8>);

impl Events {
    pub fn take(&mut self, chunk: &[u8]) -> Vec<Value> {
        self.0.extend_from_slice(chunk);
        let mut found = Vec::new();
        while let Some((end, length)) = boundary(&self.0) {
            let event = String::from_utf8_lossy(&self.0[..end]).into_owned();
            self.0.drain(..end + length);
            let data: Vec<&str> = event
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .map(|data| data.strip_prefix(' ').unwrap_or(data))
                .collect();
            found.extend(serde_json::from_str::<Value>(&data.join("\n")));
        }
        found
    }
}

/// Where the first event ends, and how long its end is.
fn boundary(bytes: &[u8]) -> Option<(usize, usize)> {
    let find = |end: &[u8]| bytes.windows(end.len()).position(|window| window == end);
    let ends = [(find(b"\n\n"), 2), (find(b"\r\n\r\n"), 4)];
    let ends = ends
        .into_iter()
        .filter_map(|(at, length)| Some((at?, length)));
    ends.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_whole_from_pieces() {
        let mut events = Events::default();
        assert!(events.take(b": ping\n\nid: 1\nda").is_empty());
        assert_eq!(
            events.take(b"ta: {\"a\":1}\n\ndata: {\"b\":"),
            [json!({"a": 1})]
        );
        assert_eq!(events.take(b"2}\r\n\r\n"), [json!({"b": 2})]);
    }
}
