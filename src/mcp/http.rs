//! The protocol over HTTP, on a TCP address and on Unix sockets. Requests stand
//! by themselves: no session is kept, so a restart loses none. A call ends when
//! its client hangs up or says that it gives the call up. What a client
//! can hold up is limited: connections, requests at work, sizes, and the time
//! for a request's header.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use super::auth::Authenticator;
use super::cancellation::{self, CallGuard, Calls};
use super::service::Service;
use super::tools::Tools;

/// The largest message of a client, on whatever way it comes: files of
/// [`super::files::MOST`] as base64, and what is around them.
pub const MESSAGE: usize = 16 * 1024 * 1024;
const CONNECTIONS: usize = 512;
/// Calls at work at the same time.
pub const REQUESTS: usize = 64;
pub const BUSY: &str = "too many calls at the same time: try again in a moment";
const _: () = assert!(MESSAGE as u64 > super::files::MOST.div_ceil(3) * 4 + 1024 * 1024);
/// For the body of a request.
const UPLOAD: Duration = Duration::from_secs(60);
/// For the header of a request, and between two requests of a connection.
const HEADER: Duration = Duration::from_secs(10);
/// For answers under way when the server ends.
const DRAIN: Duration = Duration::from_secs(3);

struct HttpState {
    guard: Authenticator,
    requests: Arc<Semaphore>,
    calls: Calls,
}

/// What is served to those whom `guard` lets through.
pub fn app(service: &Arc<Service>, path: &str, guard: Authenticator) -> Router {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(MESSAGE)
        // Calls that end with the server were not given up by their clients.
        .with_cancellation_token(service.stopping().clone())
        // The guard is stricter, and speaks for every path.
        .disable_allowed_hosts();
    let tools = Tools::new(service.clone());
    let protocol = StreamableHttpService::new(
        move || Ok(tools.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    let doorman = Arc::new(HttpState {
        guard,
        requests: Arc::new(Semaphore::new(REQUESTS)),
        calls: Calls::default(),
    });
    Router::new()
        .route_service(path, protocol)
        .layer(middleware::from_fn_with_state(doorman.clone(), admit))
        .route("/healthz", get(health))
        .with_state(doorman)
}

async fn admit(State(doorman): State<Arc<HttpState>>, request: Request, next: Next) -> Response {
    if let Err(refusal) = doorman.guard.check(request.headers()) {
        tracing::warn!(reason = refusal.reason, "refused a request");
        let mut response = (refusal.status, refusal.reason).into_response();
        if refusal.status == StatusCode::UNAUTHORIZED {
            let ask = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        }
        return response;
    }
    // Before any of it is read.
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MESSAGE as u64) {
        return too_large();
    }
    let Ok(permit) = doorman.requests.clone().try_acquire_owned() else {
        let later = [(header::RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, later, BUSY).into_response();
    };
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(UPLOAD, axum::body::to_bytes(body, MESSAGE)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return too_large(),
        Err(_) => {
            return (StatusCode::REQUEST_TIMEOUT, "the request takes too long").into_response();
        }
    };
    let on_event = doorman.calls.register(&parts.headers, &body);
    let work = next.run(Request::from_parts(parts, Body::from(body)));
    let mut response = tokio::select! {
        response = work => response,
        // Whoever gave up wants no answer; the work ends as when it hangs up.
        () = on_event.given_up.cancelled() => StatusCode::ACCEPTED.into_response(),
    };
    if on_event.opening
        && response.status().is_success()
        && let Some(session) = cancellation::session()
    {
        response
            .headers_mut()
            .insert(cancellation::SESSION, session);
    }
    // An answer that is still being streamed is still at work.
    response.map(|body| {
        Body::new(TrackedBody {
            body: Some(body),
            given_up: Box::pin(on_event.given_up.clone().cancelled_owned()),
            _heard: on_event,
            _permit: permit,
        })
    })
}

fn too_large() -> Response {
    let reason = format!("a request has at most {MESSAGE} bytes");
    // What is left of it is not read.
    let close = [(header::CONNECTION, "close")];
    (StatusCode::PAYLOAD_TOO_LARGE, close, reason).into_response()
}

async fn health(State(doorman): State<Arc<HttpState>>, request: Request) -> Response {
    match doorman.guard.check_names(request.headers()) {
        Ok(()) => "ok\n".into_response(),
        Err(refusal) => (refusal.status, refusal.reason).into_response(),
    }
}

/// A body that counts as a request at work until it is sent or given up.
struct TrackedBody {
    body: Option<Body>,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
    _heard: CallGuard,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl hyper::body::Body for TrackedBody {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        if self.given_up.as_mut().poll(context).is_ready() {
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

/// Listens on a TCP address until `stop`.
pub async fn tcp(listener: TcpListener, app: Router, stop: CancellationToken) {
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    };
    serve(accept, app, stop).await;
}

/// Listens on a Unix socket until `stop`.
pub async fn unix(socket: Socket, app: Router, stop: CancellationToken) {
    let accept = || async { Ok(socket.listener.accept().await?.0) };
    serve(accept, app, stop).await;
}

async fn serve<S, F>(accept: impl Fn() -> F, app: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>>,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = accept() => stream,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, say: it passes, and must not spin.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            // Closed at once, which its client sees.
            continue;
        };
        let service = TowerToHyperService::new(app.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection");
            }
            drop(place);
        });
    }
    connections.close();
    let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
}

/// A listening Unix socket that only its owner can open; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// One that was left by a process that is gone is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "it exists and is no socket",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Made where nobody else looks, and put in place when nobody else can
        // open it.
        let folder = path.parent().unwrap_or(Path::new("."));
        let hidden = tempfile::Builder::new().prefix(".s").tempdir_in(folder)?;
        let first = hidden.path().join("s");
        let listener = UnixListener::bind(&first)?;
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&first, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
