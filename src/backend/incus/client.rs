//! The client of the daemon's REST API. Builds each request, sends the request
//! with a deadline, decodes the answer's envelope, and converts errors to
//! [`Failure`].

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;
use url::Position;

use super::error::Failure;
use super::http::Http;
use super::operation::Running;
use super::transport::{Endpoint, Transport};
use super::wire::{Envelope, Operation, Server};
use crate::model::{Error, lock};

/// Deadline of requests that the daemon answers without a long operation.
pub(super) const REQUEST: Duration = Duration::from_secs(30);
/// A request whose answer was lost reaches the daemon within this time or
/// never.
const LATE_ARRIVAL: Duration = Duration::from_secs(2);

/// A connection to one Incus daemon and project. Clones are cheap and share the
/// connection pool. The client sends no request before the first call.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    transport: Transport,
    http: Http,
    project: Option<String>,
    server: OnceCell<Server>,
    /// Requests that continue until their answer, even if the caller is dropped.
    tasks: TaskTracker,
    /// When the client last lost the answer to a request that starts an operation.
    last_lost: Mutex<Option<Instant>>,
}

impl Client {
    /// Creates a client for `project`. `None` selects the server's default project.
    pub fn new(endpoint: &Endpoint, project: Option<String>) -> Result<Self, Error> {
        let tasks = TaskTracker::new();
        // `wait` returns only for a closed tracker, which still accepts tasks.
        tasks.close();
        Ok(Self {
            inner: Arc::new(Inner {
                transport: Transport::new(endpoint)?,
                http: Http::default(),
                project: project.filter(|p| !p.is_empty()),
                server: OnceCell::new(),
                tasks,
                last_lost: Mutex::new(None),
            }),
        })
    }

    /// The socket's path or the server's URL, for messages.
    pub fn endpoint(&self) -> &str {
        &self.inner.transport.name
    }

    pub fn project(&self) -> Option<&str> {
        self.inner.project.as_deref()
    }

    /// Returns the server's version and extensions, requested once per client.
    pub async fn server(&self) -> Result<&Server, Failure> {
        self.inner
            .server
            .get_or_try_init(|| self.get::<Server>("/1.0"))
            .await
    }

    /// Fails with `Error::Unsupported` if the server lacks the API extension.
    pub async fn require(&self, extension: &str) -> Result<(), Error> {
        if self.server().await?.has(extension) {
            return Ok(());
        }
        Err(Error::Unsupported {
            operation: "this".into(),
            reason: format!("the Incus server lacks the API extension {extension:?}").into(),
        })
    }

    /// Sends `GET` and decodes the metadata of the answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self.request(Method::GET, path)?;
        self.decode(request.timeout(REQUEST)).await
    }

    /// Sends `GET` and returns the body as text.
    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        let request = self.request(Method::GET, path)?.timeout(REQUEST);
        let (_, status, body) = self.exchange(request).await?;
        if !status.is_success() {
            let (code, message) = (status.as_u16(), format!("{path}: {status}"));
            return Err(Failure::Api { code, message });
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends a JSON body in a request that does not start an operation.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), Failure> {
        let request = self.request(method, path)?.timeout(REQUEST).json(body);
        self.decode::<Value>(request).await.map(drop)
    }

    /// Sends a `DELETE` that does not start an operation.
    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, path)?.timeout(REQUEST);
        self.decode::<Value>(request).await.map(drop)
    }

    /// Waits until requests of dropped callers end, but at most for `limit`.
    pub async fn drain(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.inner.tasks.wait()).await;
    }

    pub(super) fn has_sent_writes(&self) -> bool {
        self.inner.http.has_sent_writes()
    }

    /// Whether a request with a lost answer may still start an operation.
    pub(super) fn awaits_late_request(&self) -> bool {
        let last_lost = *lock(&self.inner.last_lost);
        last_lost.is_some_and(|at| at.elapsed() < LATE_ARRIVAL)
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    /// Adds the project to the query of `path`.
    pub(super) fn scoped(&self, path: &str) -> String {
        match &self.inner.project {
            None => path.to_owned(),
            Some(project) => {
                let project = encode(project);
                let join = if path.contains('?') { '&' } else { '?' };
                format!("{path}{join}project={project}")
            }
        }
    }

    /// Sends `GET` without a deadline and decodes the answer as an operation.
    pub(super) async fn wait_operation(&self, path: &str) -> Result<Operation, Failure> {
        self.decode(self.request(Method::GET, path)?).await
    }

    pub(super) fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
        let inner = &self.inner;
        let path = self.scoped(path);
        inner.http.request(&inner.transport, method, &path)
    }

    /// Sends a request that starts an operation. The request continues if the
    /// caller is dropped, so the answer is not lost on cancellation.
    pub(super) async fn launch(&self, request: RequestBuilder) -> Result<Running, Failure> {
        let client = self.clone();
        let answer = self.inner.tasks.spawn(async move {
            let answer = client.decode(request).await;
            if !matches!(answer, Ok(_) | Err(Failure::Api { .. })) {
                *lock(&client.inner.last_lost) = Some(Instant::now());
            }
            answer
        });
        let operation = answer
            .await
            .map_err(|e| Failure::protocol(format!("request task: {e}")))??;
        Ok(Running::new(self.clone(), operation))
    }

    /// Sends a request and decodes the metadata of the answer.
    pub(super) async fn decode<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, Failure> {
        let (path, _, body) = self.exchange(request).await?;
        let answer: Envelope =
            serde_json::from_slice(&body).map_err(|e| Failure::protocol(format!("{path}: {e}")))?;
        // The HTTP status of `wait` is 200 even for a failed operation.
        if answer.kind == "error" {
            let (code, message) = (answer.error_code, answer.error);
            let endpoint = self.endpoint();
            return Err(Failure::refusal(endpoint, code, message, self.project()));
        }
        decode_metadata(answer.metadata.as_deref())
    }

    /// Sends a request. Returns its path, and the status and body of the answer.
    async fn exchange(
        &self,
        request: RequestBuilder,
    ) -> Result<(String, StatusCode, Bytes), Failure> {
        let started = Instant::now();
        let (client, request) = request.build_split();
        let request = request.map_err(|error| Failure::http(self.endpoint(), &error))?;
        let path = request.url()[Position::BeforePath..].to_owned();
        let exchange = self
            .inner
            .http
            .send(self.endpoint(), &path, &client, request);
        let (status, body) = exchange
            .await
            .inspect_err(|error| tracing::debug!(path, %error, "request failed"))?;
        tracing::debug!(
            path,
            status = status.as_u16(),
            ms = started.elapsed().as_millis() as u64,
            "request"
        );
        Ok((path, status, body))
    }
}

pub(super) fn decode_metadata<T: DeserializeOwned>(
    metadata: Option<&RawValue>,
) -> Result<T, Failure> {
    let text = metadata.map_or("null", RawValue::get);
    serde_json::from_str(text)
        .or_else(|error| match text {
            // The daemon encodes an empty list or map as null.
            "null" => serde_json::from_str("[]")
                .or_else(|_| serde_json::from_str("{}"))
                .map_err(|_| error),
            _ => Err(error),
        })
        .map_err(|e| Failure::protocol(e.to_string()))
}

/// Percent-encodes a path segment or a query value.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => {
                use std::fmt::Write as _;
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn null_decodes_as_empty_list_or_map_only() {
        assert!(decode_metadata::<Vec<u8>>(None).unwrap().is_empty());
        let map = decode_metadata::<BTreeMap<String, u8>>(None).unwrap();
        assert!(map.is_empty());
        assert!(decode_metadata::<String>(None).is_err());
        assert!(decode_metadata::<super::super::wire::Operation>(None).is_err());
    }

    #[test]
    fn encode_escapes_each_byte() {
        assert_eq!(encode("a/b c+\u{e4}"), "a%2Fb%20c%2B%C3%A4");
    }
}
