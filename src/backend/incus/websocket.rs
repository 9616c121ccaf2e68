//! Opens WebSockets, each on a separate connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::client::Client;
use super::error::Failure;
use crate::backend::tls::ByteStream;
use crate::model::Error;

pub(super) type Socket = WebSocketStream<Box<dyn ByteStream>>;

/// Read buffer size of a socket for output, and the maximum size of a sent frame.
pub(super) const CHUNK: usize = 128 * 1024;
/// Maximum size of a received frame or message. The daemon's output frames are
/// below 1 MiB. The WebSocket library allocates a frame after reading its length.
pub(super) const LARGEST: usize = 16 * 1024 * 1024;
/// Maximum size of the write buffer, for pongs that the daemon does not read.
const UNSENT: usize = 4 * 1024 * 1024;
/// Read buffer size of a socket on which the daemon sends almost no data.
pub(super) const SMALL: usize = 4 * 1024;

/// Upgrades a new connection to a WebSocket with a read buffer of `buffer` bytes.
pub(super) async fn upgrade(
    client: &Client,
    stream: Box<dyn ByteStream>,
    path: &str,
    buffer: usize,
) -> Result<Socket, Failure> {
    let request = format!("ws://{}{path}", client.transport().host())
        .into_client_request()
        .map_err(|e| Failure::protocol(e.to_string()))?;
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config(buffer))).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Io(error)) => Err(Failure::connection(client.endpoint(), &error)),
        Err(WsError::Http(answer)) => Err(Failure::Api {
            code: answer.status().as_u16(),
            message: format!(
                "cannot open a WebSocket at {}",
                path.split('?').next().unwrap_or(path)
            ),
        }),
        Err(other) => Err(Failure::unreachable(client.endpoint(), other.to_string())),
    }
}

pub(super) fn config(buffer: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(buffer)
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST))
        .max_write_buffer_size(UNSENT)
}

/// Whether the daemon sent a frame or message above [`LARGEST`].
pub(super) fn is_too_large(error: &WsError) -> bool {
    matches!(error, WsError::Capacity(_))
}

pub(super) fn too_large(what: impl Into<String>) -> Failure {
    Failure::Other(Error::TooLarge {
        what: what.into(),
        limit: LARGEST as u64,
    })
}

/// A connection that receives output of a command.
///
/// The daemon pings such a socket but does not read from it: a pong that is still
/// unread when the daemon closes a TCP connection resets the connection, and
/// output that is on its way is lost. So only the upgrade request is sent. On a
/// terminal, where the socket also carries input, failed writes are ignored, because
/// the daemon may close the connection before a pong is sent. Reads fail if the
/// connection is broken.
pub(super) struct Receiver {
    stream: Box<dyn ByteStream>,
    sends_input: bool,
    /// Whether the daemon has answered.
    is_answered: bool,
}

impl Receiver {
    pub fn new(stream: Box<dyn ByteStream>, sends_input: bool) -> Self {
        Self {
            stream,
            sends_input,
            is_answered: false,
        }
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.is_answered = true;
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for Receiver {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_answered && !self.sends_input {
            return Poll::Ready(Ok(data.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data));
        Poll::Ready(Ok(written.unwrap_or(data.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
