//! A minimal client of the Incus API: one persistent connection, blocking I/O,
//! and a hand-written WebSocket upgrade.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use crate::http;

/// Read timeout for responses of the daemon.
const SILENCE: Duration = Duration::from_secs(120);
const SOCKETS: [&str; 2] = ["/var/lib/incus/unix.socket", "/run/incus/unix.socket"];

/// A connection to the daemon. The first request opens the connection, because
/// the daemon serves no other client while a new connection is silent.
pub struct Api {
    socket: PathBuf,
    project: String,
    stream: Option<BufReader<UnixStream>>,
}

/// Finds the daemon's socket in the same way as `incus`.
pub fn socket() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("INCUS_SOCKET")
        .map(PathBuf::from)
        .or_else(|| set("INCUS_DIR").map(|dir| Path::new(&dir).join("unix.socket")))
        .or_else(|| SOCKETS.iter().map(PathBuf::from).find(|path| path.exists()))
        .context("Incus is not running; run: pixels setup")
}

impl Api {
    pub fn new(socket: &Path, project: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            project: project.to_owned(),
            stream: None,
        }
    }

    /// Sends a request. Returns the metadata of the response, which for
    /// background operations is the operation.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        self.ask(method, path, body)?;
        self.answer().with_context(|| format!("{method} {path}"))
    }

    /// Starts an operation and waits for its end.
    pub fn operate(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let operation = self.call(method, path, Some(body))?;
        self.call("GET", &wait(&operation)?, None)
    }

    pub fn state(&mut self, instance: &str, action: &str, force: bool) -> Result<()> {
        let body = json!({"action": action, "timeout": -1, "force": force});
        let path = format!("/1.0/instances/{instance}/state");
        self.operate("PUT", &path, &body).map(drop)
    }

    /// Deletes an instance. Kills a running instance first.
    pub fn remove(&mut self, instance: &str) -> Result<()> {
        let path = format!("/1.0/instances/{instance}");
        let found = self.call("GET", &path, None)?;
        if found["status"] != "Stopped" {
            self.state(instance, "stop", true)?;
        }
        self.operate("DELETE", &path, &json!({})).map(drop)
    }

    /// Runs a command with all streams connected and without input. Discards
    /// the output and returns the exit code.
    pub fn exec(&mut self, instance: &str, command: &[&str]) -> Result<i64> {
        let body = json!({
            "command": command,
            "wait-for-websocket": true,
            "interactive": false,
        });
        let path = format!("/1.0/instances/{instance}/exec");
        let operation = self.call("POST", &path, Some(&body))?;
        let id = operation["id"]
            .as_str()
            .context("the operation has no id")?;
        let upgrade = |name: &str| {
            let secret = operation["metadata"]["fds"][name]
                .as_str()
                .with_context(|| format!("no stream {name}"))?;
            let path = self.scoped(&format!("/1.0/operations/{id}/websocket?secret={secret}"));
            let mut stream = self.connect()?;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: incus\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.get_mut().write_all(request.as_bytes())?;
            anyhow::Ok(stream)
        };
        // A short command may end before the daemon reads this stream, which
        // does no harm. Closing this stream would kill a long command.
        let _control = upgrade("control")?;
        let streams = [upgrade("0")?, upgrade("1")?, upgrade("2")?];
        self.ask("GET", &wait(&operation)?, None)?;
        let mut sockets = Vec::new();
        for mut stream in streams {
            let head = http::head(&mut stream)?.unwrap_or_default();
            ensure!(head.contains(" 101 "), "no WebSocket: {head}");
            let rest = stream.buffer().to_vec();
            sockets.push(WebSocket::from_partially_read(
                Listener(stream.into_inner()),
                rest,
                Role::Client,
                None,
            ));
        }
        // A command that has exited no longer reads its input.
        let _ = sockets[0].send(Message::text(""));
        for socket in &mut sockets[1..] {
            loop {
                match socket.read()? {
                    Message::Text(text) if text.is_empty() => break,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
        }
        let ended = self.answer()?;
        ended["metadata"]["return"].as_i64().context("no exit code")
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let path = self.scoped(path);
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: incus\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if self.stream.is_none() {
            self.stream = Some(self.connect()?);
        }
        let stream = self.stream.as_mut().context("no connection")?;
        stream.get_mut().write_all(text.as_bytes())?;
        Ok(())
    }

    fn answer(&mut self) -> Result<Value> {
        let stream = self.stream.as_mut().context("no connection")?;
        let head = http::head(stream)?.context("the daemon closed the connection")?;
        let body = http::body(&head, stream, &mut Vec::new())?;
        let mut envelope: Value = serde_json::from_slice(&body)?;
        if envelope["type"] == "error" {
            bail!("{}", envelope["error"].as_str().unwrap_or("an error"));
        }
        let metadata = envelope["metadata"].take();
        // A failed operation has a status code of at least 400.
        if let Some(code) = metadata["status_code"].as_i64()
            && code >= 400
        {
            bail!("{}", metadata["err"].as_str().unwrap_or("operation failed"));
        }
        Ok(metadata)
    }

    fn connect(&self) -> Result<BufReader<UnixStream>> {
        let stream =
            UnixStream::connect(&self.socket).with_context(|| self.socket.display().to_string())?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(BufReader::with_capacity(64 * 1024, stream))
    }

    fn scoped(&self, path: &str) -> String {
        let join = if path.contains('?') { '&' } else { '?' };
        format!("{path}{join}project={}", self.project)
    }
}

/// A stream that ignores write errors: the daemon pings every WebSocket, and
/// after a short command closes some sockets before the pong.
struct Listener(UnixStream);

impl Read for Listener {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Listener {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        Ok(self.0.write(data).unwrap_or(data.len()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn wait(operation: &Value) -> Result<String> {
    let id = operation["id"]
        .as_str()
        .context("the operation has no id")?;
    Ok(format!("/1.0/operations/{id}/wait?timeout=-1"))
}
