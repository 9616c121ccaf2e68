//! Copies the streams of a command from and to WebSockets, frame by frame.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::error::Failure;
use super::websocket::{self, CHUNK, Socket};
use crate::model::{Control, TtySize};

/// Deadline for each frame of output after the command has ended.
const DRAIN: Duration = Duration::from_secs(10);
/// Minimum buffer size for a read. Smaller reads create inefficient frames.
const LEAST: usize = CHUNK / 4;
const END_OF_TRANSMISSION: u8 = 0x04;

type Sink = SplitSink<Socket, Message>;

pub(super) fn split(socket: Socket) -> (Option<Sink>, SplitStream<Socket>) {
    let (sink, stream) = socket.split();
    (Some(sink), stream)
}

/// Copies an output stream until its end. Closes the socket if the writer
/// fails, so that the command sees a closed pipe.
pub(super) async fn drain(
    (sink, mut stream): (Option<Sink>, SplitStream<Socket>),
    mut to: Box<dyn AsyncWrite + Send + Unpin>,
    ended: &CancellationToken,
) -> Result<(), Failure> {
    let late = output_timeout(ended);
    tokio::pin!(late);
    loop {
        let frame = tokio::select! {
            frame = stream.next() => frame,
            () = &mut late => return Err(cut_off("no data after the command had ended")),
        };
        match frame {
            Some(Ok(Message::Binary(data))) => {
                if to.write_all(&data).await.is_err() {
                    if let Some(mut sink) = sink {
                        let _ = sink.close().await;
                    }
                    return Ok(());
                }
                late.set(output_timeout(ended));
            }
            Some(Ok(Message::Text(text))) if text.is_empty() => break,
            Some(Ok(Message::Close(frame))) => match frame {
                Some(frame) if frame.code != CloseCode::Normal => {
                    return Err(cut_off(&format!("the socket closed ({})", frame.code)));
                }
                _ => break,
            },
            Some(Ok(_)) => {}
            Some(Err(error)) if websocket::is_too_large(&error) => {
                return Err(websocket::too_large("a frame of the command's output"));
            }
            Some(Err(error)) => return Err(cut_off(&error.to_string())),
            None => return Err(cut_off("the connection closed")),
        }
    }
    // As above, a closed reader is not a failure.
    let _ = to.flush().await;
    Ok(())
}

async fn output_timeout(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

fn cut_off(reason: &str) -> Failure {
    Failure::unreachable("the command's output", reason)
}

/// Copies stdin to the socket, then sends end of file. On a terminal, sends the
/// end-of-transmission character instead of an empty text frame, which would
/// stall the output.
pub(super) async fn feed(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    to: &mut Sink,
    is_terminal: bool,
) {
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() < LEAST {
            buffer.reserve(CHUNK);
        }
        let is_last = !matches!(from.read_buf(&mut buffer).await, Ok(1..));
        let frame = match is_last {
            false => Message::Binary(buffer.split().freeze()),
            true if is_terminal => Message::binary(&[END_OF_TRANSMISSION][..]),
            true => Message::text(""),
        };
        // A command that no longer reads is not a failure.
        if to.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

/// Sends signals and window sizes to the command.
pub(super) async fn forward_control(to: Option<Sink>, mut from: mpsc::Receiver<Control>) {
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
    // Closing the socket would kill the command.
    std::future::pending::<()>().await;
}

/// Reads and discards frames, so that the WebSocket library answers pings.
pub(super) async fn discard(from: Option<SplitStream<Socket>>) {
    let Some(mut from) = from else { return };
    while let Some(Ok(_)) = from.next().await {}
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::websocket::{LARGEST, Receiver, SMALL};
    use super::*;
    use crate::backend::tls::ByteStream;
    use crate::model::Error;

    async fn client(stream: impl ByteStream + 'static) -> Socket {
        let stream: Box<dyn ByteStream> = Box::new(stream);
        let config = Some(websocket::config(SMALL));
        WebSocketStream::from_raw_socket(stream, Role::Client, config).await
    }

    /// Returns what the daemon has received.
    async fn drain_output_with_ping(sends_input: bool, closes_early: bool) -> Vec<u8> {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut daemon = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        daemon.send(Message::Ping("x".into())).await.unwrap();
        daemon.send(Message::binary(&b"hi"[..])).await.unwrap();
        daemon.send(Message::text("")).await.unwrap();
        let open = (!closes_early).then_some(daemon);
        let socket = client(Receiver::new(Box::new(ours), sends_input)).await;
        let (mut near, far) = tokio::io::duplex(64);
        drain(split(socket), Box::new(far), &CancellationToken::new())
            .await
            .unwrap();
        let mut output = String::new();
        near.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "hi");
        let mut received = Vec::new();
        if let Some(mut daemon) = open {
            daemon.get_mut().read_to_end(&mut received).await.unwrap();
        }
        received
    }

    #[tokio::test]
    async fn output_is_complete_if_the_ping_cannot_be_answered() {
        drain_output_with_ping(true, true).await;
        drain_output_with_ping(false, true).await;
    }

    #[tokio::test]
    async fn pings_are_answered_only_where_the_daemon_reads() {
        assert_eq!(drain_output_with_ping(false, false).await, [0; 0]);
        assert_ne!(drain_output_with_ping(true, false).await, [0; 0]);
    }

    #[tokio::test]
    async fn oversized_frame_fails_at_its_header() {
        let (near, mut daemon) = tokio::io::duplex(64);
        // The header of a frame that exceeds the limit by one byte.
        let mut header = vec![0x82, 127];
        header.extend((LARGEST as u64 + 1).to_be_bytes());
        daemon.write_all(&header).await.unwrap();
        let nowhere = Box::new(tokio::io::sink());
        let socket = client(near).await;
        let cut = drain(split(socket), nowhere, &CancellationToken::new()).await;
        let too_large = matches!(cut, Err(Failure::Other(Error::TooLarge { .. })));
        assert!(too_large, "{cut:?}");
    }

    #[tokio::test]
    async fn unread_pongs_are_limited() {
        let (near, mut daemon) = tokio::io::duplex(1024);
        let mut socket = client(near).await;
        let mut ping = vec![0x89, 125];
        ping.extend([0; 125]);
        // One write, because many wake-ups would dominate the test's duration.
        let pings = ping.repeat(1000);
        for _ in 0..64 {
            let reading = async {
                for _ in 0..1000 {
                    assert!(matches!(socket.next().await, Some(Ok(Message::Ping(_)))));
                }
            };
            let (sent, ()) = tokio::join!(daemon.write_all(&pings), reading);
            sent.unwrap();
        }
        let refused = socket.feed(Message::text("x".repeat(1024))).await;
        assert!(refused.is_err(), "8 MB of unsent pongs must be rejected");
    }
}
