//! WebSockets on connections of their own.

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
use super::transport::ByteStream;

pub(super) type Socket = WebSocketStream<Box<dyn ByteStream>>;

pub(super) const CHUNK: usize = 128 * 1024;
/// Of a frame and of a message; the daemon's frames of output are below a MiB.
/// Room is made for a frame as soon as its length is told, whatever that says.
pub(super) const LARGEST: usize = 16 * 1024 * 1024;
/// What waits to be sent: answers to pings pile up where nobody reads them.
const UNSENT: usize = 4 * 1024 * 1024;
/// For sockets on which the daemon sends hardly anything.
pub(super) const SMALL: usize = 4 * 1024;

/// Opens a WebSocket on a fresh connection.
pub(super) async fn open(client: &Client, path: &str) -> Result<Socket, Failure> {
    upgrade(client, client.transport().connect().await?, path, CHUNK).await
}

pub(super) async fn upgrade(
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
        Err(WsError::Io(error)) => Err(Failure::connection(client.endpoint(), &error)),
        Err(WsError::Http(answer)) => Err(Failure::Api {
            code: answer.status().as_u16(),
            message: format!("no WebSocket at {}", path.split('?').next().unwrap_or(path)),
        }),
        Err(other) => Err(Failure::Unreachable {
            endpoint: client.endpoint().to_owned(),
            reason: other.to_string().into(),
        }),
    }
}

pub(super) fn config(buffer: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(buffer)
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST))
        .max_write_buffer_size(UNSENT)
}

/// Whether the daemon wanted to send more than [`LARGEST`] at once.
pub(super) fn is_too_large(error: &WsError) -> bool {
    matches!(error, WsError::Capacity(_))
}

/// A connection whose failing writes are ignored: the answer to a ping may come
/// too late for the daemon, and must not hide the output that is still unread.
/// Reading tells when the connection is really lost.
pub(super) struct Receiver(pub Box<dyn ByteStream>);

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
