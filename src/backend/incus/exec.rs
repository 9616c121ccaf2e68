//! Running a command: one operation, its stream sockets, and the exit code.
//!
//! Protocol facts (Incus 6.0, observed): the command starts once sockets 0, 1
//! and 2 are connected, on a terminal 0 and `control`; an empty *text* frame
//! ends a stream in either direction; the sockets then close without a
//! handshake; an interactive command's operation ends only after the client has
//! closed socket 0; exit codes 126 and 127 arrive as operation errors; every
//! socket is sent a ping, and one whose stream has ended is closed without
//! waiting for the answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::client::{Client, encode};
use super::failure::Failure;
use super::transport::ByteStream;
use super::wire::Operation;
use crate::sandbox::{Control, ExecIo, ExecRequest, ExitStatus, TtySize};

pub(super) type Socket = WebSocketStream<Box<dyn ByteStream>>;

const CHUNK: usize = 128 * 1024;
/// Room is made for a frame as soon as its length is told, whatever that says.
const LARGEST: usize = 64 * 1024 * 1024;
/// For sockets on which the daemon sends hardly anything.
const SMALL: usize = 4 * 1024;
/// The daemon gives clients five seconds to connect the sockets.
const SOCKETS: Duration = Duration::from_secs(10);
/// Output still under way when the command has ended arrives within this time.
const DRAIN: Duration = Duration::from_secs(10);
/// When output was cut off, the cause shows in the operation within this time.
const CAUSE: Duration = Duration::from_secs(2);
const END_OF_TRANSMISSION: u8 = 0x04;

/// Runs `request` in `instance`; see `sandbox::Guest::exec` for the contract.
pub(super) async fn run(
    client: &Client,
    instance: &str,
    request: &ExecRequest,
    io: ExecIo,
) -> Result<ExitStatus, Failure> {
    let path = format!("/1.0/instances/{}/exec", encode(instance));
    let mut running = client.start(Method::POST, &path, &body(request)).await?;
    let secrets = Secrets::of(running.metadata())?;
    let id = running.id().to_owned();
    let path = |secret: &str| {
        client.scoped(&format!(
            "/1.0/operations/{id}/websocket?secret={}",
            encode(secret)
        ))
    };
    let sending = async |secret: &str| {
        let stream = client.transport().connect().await?;
        upgrade(client, stream, &path(secret), SMALL).await
    };
    let receiving = async |secret: &str| {
        let stream = Box::new(Receiver(client.transport().connect().await?));
        upgrade(client, stream, &path(secret), CHUNK).await
    };
    let connecting = async {
        let first = async {
            match &secrets.output {
                None => Ok(None),
                Some((out, err)) => {
                    let (out, err) = tokio::try_join!(receiving(out), receiving(err))?;
                    Ok(Some((out, err)))
                }
            }
        };
        let input = async {
            match &secrets.output {
                None => receiving(&secrets.input).await,
                Some(_) => sending(&secrets.input).await,
            }
        };
        let control = async {
            match (sending(&secrets.control).await, &secrets.output) {
                (Ok(control), _) => Ok(Some(control)),
                // Without a terminal the daemon does not wait for this socket,
                // and refuses it once a short command has ended.
                (Err(Failure::Api { message, .. }), Some(_)) => {
                    tracing::debug!(message, "control");
                    Ok(None)
                }
                (Err(failure), _) => Err(failure),
            }
        };
        tokio::try_join!(input, control, first)
    };
    let (input, control, output) = match tokio::time::timeout(SOCKETS, connecting).await {
        Ok(connected) => connected?,
        Err(_) => {
            return Err(Failure::TimedOut {
                doing: "connecting the command's streams".into(),
                after: SOCKETS,
            });
        }
    };
    let ended = CancellationToken::new();
    let wait = async {
        let outcome = running.finish().await;
        ended.cancel();
        outcome
    };
    let (input_tx, input_rx) = input.split();
    let (control_tx, control_rx) = control.map(WebSocketStream::split).unzip();
    let ExecIo {
        stdin,
        stdout,
        stderr,
        control: commands,
    } = io;
    let steering = async {
        tokio::join!(steer(control_tx, commands), discard(control_rx));
        std::future::pending::<()>().await;
    };

    match output {
        Some((out, err)) => {
            let feeding = async {
                tokio::join!(feed(stdin, input_tx), discard(Some(input_rx)));
                std::future::pending::<()>().await;
            };
            let draining = async {
                tokio::try_join!(
                    drain(split(out), stdout, &ended),
                    drain(split(err), stderr, &ended)
                )
                .map(drop)
            };
            tokio::select! {
                status = settled(wait, draining) => status,
                () = feeding => unreachable!("feeding never ends by itself"),
                () = steering => unreachable!("steering never ends by itself"),
            }
        }
        None => {
            // One socket carries both directions; its closing is shared.
            let (to_guest, from_user) = mpsc::channel::<Message>(4);
            let writing = forward(from_user, input_tx);
            let hang_up = to_guest.clone();
            let feeding = feed_channel(stdin, to_guest);
            let draining = async {
                let end = drain((None, input_rx), stdout, &ended).await;
                let _ = hang_up.send(Message::Close(None)).await;
                end
            };
            tokio::select! {
                status = settled(wait, draining) => status,
                ((), ()) = async {
                    tokio::join!(feeding, writing);
                    std::future::pending().await
                } => unreachable!("feeding never ends by itself"),
                () = steering => unreachable!("steering never ends by itself"),
            }
        }
    }
}

/// The exit code, once all output has been passed on. Output that was cut
/// off is a failure at once, however long the command would go on; a failure
/// of the operation itself says more and is preferred.
async fn settled(
    wait: impl Future<Output = Result<Operation, Failure>>,
    draining: impl Future<Output = Result<(), Failure>>,
) -> Result<ExitStatus, Failure> {
    tokio::pin!(wait, draining);
    tokio::select! {
        outcome = &mut wait => {
            let status = exit_status(outcome)?;
            draining.await?;
            Ok(status)
        }
        output = &mut draining => match output {
            Ok(()) => exit_status(wait.await),
            Err(cut) => {
                if let Ok(outcome) = tokio::time::timeout(CAUSE, wait).await {
                    exit_status(outcome)?;
                }
                Err(cut)
            }
        },
    }
}

pub(super) fn exit_status(outcome: Result<Operation, Failure>) -> Result<ExitStatus, Failure> {
    match outcome {
        Ok(operation) => operation
            .metadata
            .get("return")
            .and_then(serde_json::Value::as_i64)
            .and_then(|code| i32::try_from(code).ok())
            .map(ExitStatus)
            .ok_or_else(|| Failure::Protocol("the command ended without an exit code".into())),
        // Also when the command itself exited with that code.
        Err(Failure::Api { message, .. }) if message.contains("Command not found") => {
            Ok(ExitStatus(127))
        }
        Err(Failure::Api { message, .. }) if message.contains("Command not executable") => {
            Ok(ExitStatus(126))
        }
        Err(other) => Err(other),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Body<'a> {
    command: &'a [String],
    wait_for_websocket: bool,
    interactive: bool,
    environment: &'a std::collections::BTreeMap<String, String>,
    user: u32,
    group: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u16>,
}

fn body(request: &ExecRequest) -> Body<'_> {
    Body {
        command: &request.argv,
        wait_for_websocket: true,
        interactive: request.tty.is_some(),
        environment: &request.env,
        user: request.owner.uid,
        group: request.owner.gid,
        cwd: request.cwd.as_deref(),
        width: request.tty.map(|size| size.columns),
        height: request.tty.map(|size| size.rows),
    }
}

pub(super) struct Secrets {
    input: String,
    /// Absent when a terminal carries both directions on the input socket.
    output: Option<(String, String)>,
    control: String,
}

impl Secrets {
    pub fn of(metadata: &serde_json::Value) -> Result<Self, Failure> {
        let fd = |name: &str| {
            metadata
                .get("fds")
                .and_then(|fds| fds.get(name))
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned)
        };
        let need = |name: &str| {
            fd(name).ok_or_else(|| Failure::Protocol(format!("exec offers no stream {name:?}")))
        };
        Ok(Self {
            input: need("0")?,
            output: fd("1").zip(fd("2")),
            control: need("control")?,
        })
    }
}

/// Opens a WebSocket on a fresh connection.
pub(super) async fn open(client: &Client, path: &str) -> Result<Socket, Failure> {
    upgrade(client, client.transport().connect().await?, path, CHUNK).await
}

async fn upgrade(
    client: &Client,
    stream: Box<dyn ByteStream>,
    path: &str,
    buffer: usize,
) -> Result<Socket, Failure> {
    let request = format!("ws://{}{path}", client.transport().host())
        .into_client_request()
        .map_err(|e| Failure::Protocol(e.to_string()))?;
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config(buffer))).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Io(error)) => {
            Err(Failure::connection(client.endpoint(), &error))
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(Failure::Api {
            code: answer.status().as_u16(),
            message: format!("no WebSocket at {}", path.split('?').next().unwrap_or(path)),
        }),
        Err(other) => Err(Failure::Unreachable {
            endpoint: client.endpoint().to_owned(),
            reason: other.to_string(),
        }),
    }
}

pub(super) fn config(buffer: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(buffer)
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST))
}

/// A connection whose failing writes are ignored: the answer to a ping may come
/// too late for the daemon, and must not hide the output that is still unread.
/// Reading tells when the connection is really lost.
struct Receiver(Box<dyn ByteStream>);

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Receiver {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, data));
        Poll::Ready(Ok(written.unwrap_or(data.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = ready!(Pin::new(&mut self.0).poll_flush(cx));
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(super) type Sink = SplitSink<Socket, Message>;

pub(super) fn split(socket: Socket) -> (Option<Sink>, SplitStream<Socket>) {
    let (sink, stream) = socket.split();
    (Some(sink), stream)
}

/// Copies one output stream to its end. A writer that fails closes the
/// socket, so that the guest command sees a closed pipe.
pub(super) async fn drain(
    (sink, mut stream): (Option<Sink>, SplitStream<Socket>),
    mut to: Box<dyn AsyncWrite + Send + Unpin>,
    ended: &CancellationToken,
) -> Result<(), Failure> {
    let late = overdue(ended);
    tokio::pin!(late);
    loop {
        let frame = tokio::select! {
            frame = stream.next() => frame,
            () = &mut late => return Err(cut_off("it stalled after the command had ended")),
        };
        match frame {
            Some(Ok(Message::Binary(data))) => {
                if to.write_all(&data).await.is_err() {
                    if let Some(mut sink) = sink {
                        let _ = sink.close().await;
                    }
                    return Ok(());
                }
                late.set(overdue(ended));
            }
            Some(Ok(Message::Text(text))) if text.is_empty() => break,
            Some(Ok(Message::Close(frame))) => match frame {
                Some(frame) if frame.code != CloseCode::Normal => {
                    return Err(cut_off(&format!("it was closed ({})", frame.code)));
                }
                _ => break,
            },
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(cut_off(&error.to_string())),
            None => return Err(cut_off("the connection closed")),
        }
    }
    // A reader that went away is not our failure here either.
    let _ = to.flush().await;
    Ok(())
}

async fn overdue(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

fn cut_off(reason: &str) -> Failure {
    Failure::Unreachable {
        endpoint: "the command's output".into(),
        reason: reason.to_owned(),
    }
}

/// Copies stdin to its socket; afterwards the guest sees end of file.
async fn feed(mut from: Box<dyn AsyncRead + Send + Unpin>, mut to: Sink) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                let _ = to.send(Message::text("")).await;
                return;
            }
            Ok(n) => {
                let frame = Message::Binary(Bytes::copy_from_slice(&buffer[..n]));
                // The command no longer reads: not an error, its exit code tells.
                if to.send(frame).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Like [`feed`] for a terminal, where an empty text frame would stall the
/// output: end of file is the terminal's own character for it.
async fn feed_channel(mut from: Box<dyn AsyncRead + Send + Unpin>, to: mpsc::Sender<Message>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let (data, last) = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => (Bytes::from_static(&[END_OF_TRANSMISSION]), true),
            Ok(n) => (Bytes::copy_from_slice(&buffer[..n]), false),
        };
        if to.send(Message::Binary(data)).await.is_err() || last {
            return;
        }
    }
}

async fn forward(mut from: mpsc::Receiver<Message>, mut to: Sink) {
    while let Some(message) = from.recv().await {
        if to.send(message).await.is_err() {
            return;
        }
    }
}

/// Sends signals and window sizes as they come.
async fn steer(to: Option<Sink>, mut from: mpsc::Receiver<Control>) {
    let Some(mut to) = to else { return };
    while let Some(control) = from.recv().await {
        let frame = match control {
            Control::Signal(number) => {
                serde_json::json!({"command": "signal", "signal": number})
            }
            Control::Resize(TtySize { columns, rows }) => serde_json::json!({
                "command": "window-resize",
                "args": {"width": columns.to_string(), "height": rows.to_string()},
            }),
        };
        if to.send(Message::text(frame.to_string())).await.is_err() {
            return;
        }
    }
    // Keep the socket: closing it would kill the command.
    std::future::pending::<()>().await;
}

/// Reads a socket so that keep-alive pings are answered.
async fn discard(from: Option<SplitStream<Socket>>) {
    let Some(mut from) = from else { return };
    while let Some(Ok(_)) = from.next().await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(metadata: serde_json::Value) -> Result<Operation, Failure> {
        Ok(serde_json::from_value(serde_json::json!({
            "id": "x", "status_code": 200, "metadata": metadata
        }))
        .unwrap())
    }

    #[test]
    fn a_missing_exit_code_is_never_success() {
        assert!(matches!(
            exit_status(ended(serde_json::json!({}))),
            Err(Failure::Protocol(_))
        ));
        assert!(matches!(
            exit_status(ended(serde_json::json!({"return": null}))),
            Err(Failure::Protocol(_))
        ));
        assert_eq!(
            exit_status(ended(serde_json::json!({"return": 7}))).unwrap(),
            ExitStatus(7)
        );
    }

    #[test]
    fn shell_codes_come_back_from_operation_errors() {
        for (message, code) in [("Command not found", 127), ("Command not executable", 126)] {
            let error = Failure::Api {
                code: 400,
                message: message.into(),
            };
            assert_eq!(exit_status(Err(error)).unwrap(), ExitStatus(code));
        }
    }

    #[tokio::test]
    async fn output_is_whole_when_the_daemon_does_not_wait_for_its_ping() {
        use tokio_tungstenite::tungstenite::protocol::Role;
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut daemon = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        daemon.send(Message::Ping("x".into())).await.unwrap();
        daemon.send(Message::binary(&b"hi"[..])).await.unwrap();
        daemon.send(Message::text("")).await.unwrap();
        drop(daemon);
        let stream: Box<dyn ByteStream> = Box::new(Receiver(Box::new(ours)));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        let (mut near, far) = tokio::io::duplex(64);
        drain(split(socket), Box::new(far), &CancellationToken::new())
            .await
            .unwrap();
        let mut output = String::new();
        near.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "hi");
    }

    #[test]
    fn streams_follow_what_the_server_offers() {
        let plain = Secrets::of(&serde_json::json!({
            "fds": {"0": "a", "1": "b", "2": "c", "control": "d"}
        }))
        .unwrap();
        assert!(plain.output.is_some());
        let tty = Secrets::of(&serde_json::json!({"fds": {"0": "a", "control": "d"}})).unwrap();
        assert!(tty.output.is_none());
        assert!(Secrets::of(&serde_json::json!({"fds": {"0": "a"}})).is_err());
    }
}
