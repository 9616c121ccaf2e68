//! The streamable HTTP transport, on a TCP address and on Unix sockets.
//!
//! Requests are independent: sessions are not stored, so a restart loses no
//! session. A call is canceled if its client disconnects or sends
//! `notifications/cancelled`. Limits apply to connections, concurrent calls,
//! message sizes and the time to send a request.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tempfile::TempPath;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use super::auth::Authenticator;
use super::cancellation::{self, CallGuard, Calls};
use super::service::Service;
use super::tools::Tools;
use super::truncate::FILE;

/// Maximum bytes of a client message: a file of [`FILE`] bytes in base64,
/// with its JSON.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
const MAX_CONNECTIONS: usize = 512;
/// Maximum number of concurrent calls.
pub const MAX_CALLS: usize = 64;
pub const BUSY: &str = "too many concurrent calls: try again in a second";
const _: () = assert!(MAX_MESSAGE as u64 > FILE.div_ceil(3) * 4 + 1024 * 1024);
/// Time limit for a client to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for a client to send the header of a request, from the end of the
/// previous request on the connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for open responses after the server has begun to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

struct HttpState {
    authenticator: Authenticator,
    /// One permit per concurrent call.
    permits: Arc<Semaphore>,
    calls: Calls,
}

/// Serves the protocol at `path`, to requests that `authenticator` accepts, and
/// `/healthz`.
pub fn app(service: &Arc<Service>, path: &str, authenticator: Authenticator) -> Router {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(MAX_MESSAGE)
        // Distinguishes a stopping server from a call that the client cancels.
        .with_cancellation_token(service.stopping().clone())
        // Not needed: the authenticator is stricter and checks every path.
        .disable_allowed_hosts();
    let tools = Tools::new(service.clone());
    let protocol = StreamableHttpService::new(
        move || Ok(tools.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    let state = Arc::new(HttpState {
        authenticator,
        permits: Arc::new(Semaphore::new(MAX_CALLS)),
        calls: Calls::default(),
    });
    Router::new()
        .route_service(path, protocol)
        .layer(middleware::from_fn_with_state(state.clone(), handle))
        .route("/healthz", get(health))
        .with_state(state)
}

async fn handle(State(state): State<Arc<HttpState>>, request: Request, next: Next) -> Response {
    if let Err(rejection) = state.authenticator.check(request.headers()) {
        tracing::warn!(reason = rejection.1, "rejected a request");
        let mut response = rejection.into_response();
        if response.status() == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        return response;
    }
    // Reject a large request before its body is read.
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_MESSAGE as u64) {
        return too_large();
    }
    let Ok(permit) = state.permits.clone().try_acquire_owned() else {
        let retry_after = [(header::RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry_after, BUSY).into_response();
    };
    let (parts, body) = request.into_parts();
    let body =
        match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_MESSAGE)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return too_large(),
            Err(_) => {
                return (StatusCode::REQUEST_TIMEOUT, "request timed out").into_response();
            }
        };
    let call = state.calls.register(&parts.headers, &body);
    let work = next.run(Request::from_parts(parts, Body::from(body)));
    let mut response = tokio::select! {
        response = work => response,
        // Drops the call, as when the client disconnects.
        () = call.cancelled.cancelled() => StatusCode::ACCEPTED.into_response(),
    };
    if call.is_initialize
        && response.status().is_success()
        && let Some(session) = cancellation::new_session()
    {
        response
            .headers_mut()
            .insert(cancellation::SESSION, session);
    }
    // The call is in progress until its response has been sent.
    response.map(|body| {
        Body::new(TrackedBody {
            body: Some(body),
            cancelled: Box::pin(call.cancelled.clone().cancelled_owned()),
            _call: call,
            _permit: permit,
        })
    })
}

fn too_large() -> Response {
    let reason = format!("request is larger than {MAX_MESSAGE} bytes");
    // The server does not read the rest of the body.
    let close = [(header::CONNECTION, "close")];
    (StatusCode::PAYLOAD_TOO_LARGE, close, reason).into_response()
}

async fn health(State(state): State<Arc<HttpState>>, request: Request) -> Response {
    match state.authenticator.check_names(request.headers()) {
        Ok(()) => "ok\n".into_response(),
        Err(rejection) => rejection.into_response(),
    }
}

/// A response body that keeps the permit of its call until the body is sent or
/// the call is canceled.
struct TrackedBody {
    body: Option<Body>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    _call: CallGuard,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl hyper::body::Body for TrackedBody {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        if self.cancelled.as_mut().poll(context).is_ready() {
            self.body = None;
        }
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// Accepts TCP connections until `stop`.
pub async fn serve_tcp(listener: TcpListener, app: Router, stop: CancellationToken) {
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    };
    serve(accept, app, stop).await;
}

/// Accepts connections on a Unix socket until `stop`.
pub async fn serve_unix(listener: UnixListener, app: Router, stop: CancellationToken) {
    let accept = || async { Ok(listener.accept().await?.0) };
    serve(accept, app, stop).await;
}

async fn serve<S, F>(accept: impl Fn() -> F, app: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>>,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = accept() => stream,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Wait, for example until a file descriptor is free.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            // Dropping the stream closes the connection.
            continue;
        };
        let service = TowerToHyperService::new(app.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let outcome = tokio::select! {
                outcome = &mut connection => outcome,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "connection failed");
            }
            drop(permit);
        });
    }
    connections.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await;
}

/// Listens on a Unix socket that only its owner can open. The socket file is
/// removed when the returned path is dropped.
///
/// Replaces an existing socket file: the caller holds the lock of the state
/// file, so no running server uses that socket.
pub fn bind_unix(path: &Path) -> io::Result<(UnixListener, TempPath)> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is not a socket exists",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Other users must not connect before the mode is set, so the socket is
    // created in a private directory. The names are short because the path of a
    // socket has at most 107 bytes.
    let dir = path.parent().unwrap_or(Path::new("."));
    let private = tempfile::Builder::new().prefix(".s").tempdir_in(dir)?;
    let new = private.path().join("s");
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path)?;
    Ok((listener, TempPath::try_from_path(path)?))
}
