//! One HTTP exchange: a request, its deadline, and the complete answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::Form;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;

use super::error::Failure;
use super::transport::Transport;

/// Largest successful answer. An instance with its full state takes about
/// 8 KiB, so this is a list of thousands.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Largest error answer, which is a sentence.
const MAX_ERROR: usize = 1024 * 1024;

#[derive(Debug)]
enum Body {
    Bytes(Vec<u8>),
    /// Sets the content type and length headers of the request.
    Form(Form),
}

/// A request that is not yet sent.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Body,
    deadline: Option<Duration>,
}

impl Request {
    /// `path` includes the query with the project.
    pub fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: Body::Bytes(Vec::new()),
            deadline: None,
        }
    }

    /// Limits the duration of the whole exchange.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub fn json(mut self, body: &impl Serialize) -> Result<Self, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::Protocol(e.to_string()))?;
        let kind = CONTENT_TYPE.as_str();
        self.headers.push((kind, "application/json".into()));
        self.body = Body::Bytes(body);
        Ok(self)
    }

    pub fn upload(mut self, headers: &[(&'static str, String)], form: Form) -> Self {
        self.headers.extend_from_slice(headers);
        self.body = Body::Form(form);
        self
    }
}

/// The HTTP client, created on first use.
#[derive(Debug, Default)]
pub(super) struct Http {
    client: OnceLock<reqwest::Client>,
    /// Requests other than `GET` that may have reached the server.
    writes: AtomicUsize,
}

impl Http {
    /// Sends a request and returns the status and the complete body of the answer.
    /// A body that is larger than any real answer is `Failure::TooLarge`.
    pub async fn send(
        &self,
        transport: &Transport,
        request: Request,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let made = transport.http()?;
                self.client.get_or_init(|| made)
            }
        };
        let writes = usize::from(request.method != Method::GET);
        self.writes.fetch_add(writes, Ordering::Relaxed);
        let builder = client.request(request.method, transport.url(&request.path));
        let mut builder = match request.body {
            Body::Bytes(bytes) => builder.body(bytes),
            Body::Form(form) => builder.multipart(form),
        };
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        let broken = |error| Failure::http(&transport.name, &error);
        let exchange = async {
            let answer = builder.send().await.map_err(|error| {
                if error.is_connect() {
                    self.writes.fetch_sub(writes, Ordering::Relaxed);
                }
                broken(error)
            })?;
            let status = answer.status();
            let limit = if status.is_success() {
                MAX_ANSWER
            } else {
                MAX_ERROR
            };
            match read_body(answer, limit).await.map_err(broken)? {
                Some(body) => Ok((status, body)),
                None => Err(Failure::TooLarge {
                    what: format!("the answer of {} to {}", transport.name, request.path),
                    limit: limit as u64,
                }),
            }
        };
        let Some(deadline) = request.deadline else {
            return exchange.await;
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::Unreachable {
                    endpoint: transport.name.clone(),
                    reason: format!("no answer within {} s", deadline.as_secs()).into(),
                })
            })
    }

    /// Whether a request that changes something may have reached the server.
    pub fn has_sent_writes(&self) -> bool {
        self.writes.load(Ordering::Relaxed) > 0
    }
}

/// Reads the body of an answer. `None` if it has more than `limit` bytes; then
/// the rest is not read.
pub async fn read_body(mut answer: Response, limit: usize) -> reqwest::Result<Option<Bytes>> {
    if answer
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Ok(None);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await? {
        if chunk.len() > limit - body.len() {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves `answer` and reads its body with a limit of ten bytes.
    async fn read(answer: &'static [u8]) -> Option<Bytes> {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            // Wait for the request.
            stream.read_buf(&mut Vec::new()).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let plain = super::super::transport::plain_config().unwrap();
        let builder = reqwest::Client::builder().tls_backend_preconfigured(plain);
        let answer = builder.build().unwrap().get(url).send().await.unwrap();
        let body = read_body(answer, 10).await.unwrap();
        serving.await.unwrap();
        body
    }

    #[tokio::test]
    async fn body_above_the_limit_is_not_read() {
        let body = read(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").await;
        assert_eq!(body.as_deref(), Some(&b"0123456789"[..]));
        let sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n";
        assert_eq!(read(sent).await.as_deref(), Some(&b"0123456789"[..]));
        // A larger content length fails at once, a larger body at its first byte
        // too many.
        let body = read(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n").await;
        assert_eq!(body, None);
        let sent =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n567890\r\n";
        assert_eq!(read(sent).await, None);
    }
}
