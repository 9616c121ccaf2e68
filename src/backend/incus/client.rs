//! The client of the daemon's REST API. Every request takes the same path:
//! build, send with a deadline, decode the envelope, turn errors into
//! [`Failure`].

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::error::Failure;
use super::http::{Http, Request};
use super::transport::{Endpoint, Transport};
use super::wire::{Envelope, Operation, Server};
use crate::model::lock;

/// Deadline of requests that the daemon answers without long work.
pub(super) const REQUEST: Duration = Duration::from_secs(30);
/// A request whose answer was lost reaches the daemon within this time, or not
/// at all.
const LATE_ARRIVAL: Duration = Duration::from_secs(2);

/// A connection to one Incus daemon and project. Cheap to clone; all clones
/// share the connection pool. Nothing is sent before the first call.
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
    /// Requests that run to their answer even if their caller is dropped.
    tasks: TaskTracker,
    /// When the answer to a request that starts an operation was last lost.
    last_lost: Mutex<Option<Instant>>,
}

impl Client {
    /// All requests are made in `project`; `None` is the server's default
    /// project.
    pub fn new(endpoint: &Endpoint, project: Option<String>) -> Result<Self, Failure> {
        let tasks = TaskTracker::new();
        // A closed tracker still accepts tasks, and `wait` returns.
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

    /// The socket's path or the URL, for messages.
    pub fn endpoint(&self) -> &str {
        &self.inner.transport.name
    }

    pub fn project(&self) -> Option<&str> {
        self.inner.project.as_deref()
    }

    /// The server's version and extensions, requested once per client.
    pub async fn server(&self) -> Result<&Server, Failure> {
        self.inner
            .server
            .get_or_try_init(|| self.get::<Server>("/1.0"))
            .await
    }

    /// Fails with `Failure::Extension` if the server lacks the API extension.
    pub async fn require(&self, extension: &'static str) -> Result<(), Failure> {
        if self.server().await?.has(extension) {
            Ok(())
        } else {
            Err(Failure::Extension(extension))
        }
    }

    /// Sends `GET` and decodes the metadata of the answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self.request(Method::GET, path).deadline(REQUEST);
        self.decode(path, request).await
    }

    /// Sends a JSON body in a request that starts no operation.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), Failure> {
        let request = self.request(method, path).deadline(REQUEST).json(body)?;
        self.decode::<Value>(path, request).await.map(drop)
    }

    /// Sends a `DELETE` that starts no operation.
    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, path).deadline(REQUEST);
        self.decode::<Value>(path, request).await.map(drop)
    }

    /// Waits, at most for `limit`, for requests whose callers were dropped.
    pub async fn drain(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.inner.tasks.wait()).await;
    }

    pub(super) fn has_sent_writes(&self) -> bool {
        self.inner.http.has_sent_writes()
    }

    /// Whether a request whose answer was lost may still start its operation.
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

    /// `path` with the project added to its query.
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
        let request = self.request(Method::GET, path);
        self.decode(path, request).await
    }

    pub(super) fn request(&self, method: Method, path: &str) -> Request {
        Request::new(method, self.scoped(path))
    }

    /// Sends a request that starts an operation. The exchange goes on if the
    /// caller is dropped, so the answer is never lost to a cancellation.
    pub(super) async fn launch(&self, path: &str, request: Request) -> Result<Operation, Failure> {
        let path = path.to_owned();
        let client = self.clone();
        let answer = self.inner.tasks.spawn(async move {
            let answer = client.decode::<Operation>(&path, request).await;
            if !matches!(answer, Ok(_) | Err(Failure::Api { .. })) {
                *lock(&client.inner.last_lost) = Some(Instant::now());
            }
            answer
        });
        answer
            .await
            .map_err(|e| Failure::Protocol(format!("request task: {e}")))?
    }

    async fn decode<T: DeserializeOwned>(
        &self,
        path: &str,
        request: Request,
    ) -> Result<T, Failure> {
        decode_metadata(self.envelope(path, request).await?.metadata.as_deref())
    }

    async fn envelope(&self, path: &str, request: Request) -> Result<Envelope, Failure> {
        let body = self.execute(path, request).await?;
        let envelope: Envelope =
            serde_json::from_slice(&body).map_err(|e| Failure::Protocol(format!("{path}: {e}")))?;
        // The HTTP status of `wait` is 200 for a failed operation, too.
        if envelope.kind == "error" {
            let (code, message) = (envelope.error_code, envelope.error);
            return Err(Failure::refusal(
                self.endpoint(),
                code,
                message,
                self.project(),
            ));
        }
        Ok(envelope)
    }

    /// Sends a request and returns the body of the answer, whatever its status.
    pub(super) async fn execute(&self, path: &str, request: Request) -> Result<Bytes, Failure> {
        let started = Instant::now();
        let answer = self.inner.http.send(&self.inner.transport, request).await;
        match answer {
            Ok((status, body)) => {
                tracing::debug!(
                    path,
                    status = status.as_u16(),
                    ms = started.elapsed().as_millis() as u64,
                    "request"
                );
                Ok(body)
            }
            Err(error) => {
                tracing::debug!(path, %error, "request failed");
                Err(error)
            }
        }
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
        .map_err(|e| Failure::Protocol(e.to_string()))
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
