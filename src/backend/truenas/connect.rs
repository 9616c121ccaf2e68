//! Opens the WebSocket: TCP, TLS and the HTTP upgrade.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::endpoint::Endpoint;
use super::error::Failure;
use crate::backend::tls::{self, ByteStream};
use crate::model::{Error, Reason};

/// Deadline for the TCP connection, TLS and the HTTP upgrade together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a message and a frame, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 << 20;
/// Maximum size of unsent data in bytes: more than the largest request plus
/// pongs. Only one request is sent at a time.
const MAX_UNSENT: usize = 16 << 20;

pub(super) type Socket = WebSocketStream<Box<dyn ByteStream>>;

/// Attempts one connection with a deadline of ten seconds.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Socket, Failure> {
    tokio::time::timeout(CONNECT_TIMEOUT, open(endpoint))
        .await
        .unwrap_or_else(|_| {
            let reason = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
            Err(Failure::unreachable(&endpoint.authority, reason))
        })
}

async fn open(endpoint: &Endpoint) -> Result<Socket, Failure> {
    let unreachable = |reason: Reason| Failure::unreachable(&endpoint.authority, reason);
    let invalid = |error: String| Error::Invalid(format!("truenas.host: {error}").into());
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|e| unreachable(e.to_string().into()))?;
    let _ = tcp.set_nodelay(true);
    let stream: Box<dyn ByteStream> = match &endpoint.tls {
        None => Box::new(tcp),
        Some(tls) => {
            let name = rustls::pki_types::ServerName::try_from(endpoint.host.clone())
                .map_err(|e| invalid(e.to_string()))?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
            let stream = connector.connect(name, tcp).await;
            Box::new(stream.map_err(|e| unreachable(tls_reason(&e)))?)
        }
    };
    // TLS is already active. The parser requires a known scheme.
    let request = format!("ws://{}/api/current", endpoint.authority)
        .into_client_request()
        .map_err(|e| invalid(e.to_string()))?;
    let no_api = |cause: String| {
        let text = format!("the server does not have the API of TrueNAS 25.04 or later ({cause})");
        unreachable(text.into())
    };
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config())).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(response)) => Err(no_api(format!(
            "HTTP status {}",
            response.status().as_u16()
        ))),
        Err(WsError::Protocol(error)) => Err(no_api(error.to_string())),
        Err(error) => Err(unreachable(error.to_string().into())),
    }
}

fn tls_reason(error: &std::io::Error) -> Reason {
    match tls::untrusted_certificate(error) {
        Some(reason) => Reason::from(reason).with_hint(
            "compare the fingerprint on the server, then set truenas.fingerprint to the SHA-256 \
             of its certificate",
        ),
        None => error.to_string().into(),
    }
}

pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .max_write_buffer_size(MAX_UNSENT)
}
