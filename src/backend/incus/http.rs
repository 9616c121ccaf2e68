//! One exchange over HTTP: what is asked, its deadline, the whole answer.

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

/// Of an answer. An instance is told with its full state in about 8 KiB, so
/// this is a list of thousands of them.
const ANSWER: usize = 64 * 1024 * 1024;
/// Of a refusal, which is a sentence.
const REFUSAL: usize = 1024 * 1024;

#[derive(Debug)]
enum Body {
    Bytes(Vec<u8>),
    /// Sets the content type and length headers of the request.
    Form(Form),
}

/// One request, before it is sent.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Body,
    limit: Option<Duration>,
}

impl Request {
    /// `path`: with its query, and the project in it.
    pub fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: Body::Bytes(Vec::new()),
            limit: None,
        }
    }

    /// For the whole exchange.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
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

/// The HTTP client, made on first use.
#[derive(Debug, Default)]
pub(super) struct Http {
    client: OnceLock<reqwest::Client>,
    /// Requests other than `GET` that have left, as far as we know.
    changes: AtomicUsize,
}

impl Http {
    /// The status and the whole body of the answer; `Failure::TooLarge` for one
    /// that is no answer to anything.
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
        let changes = usize::from(request.method != Method::GET);
        self.changes.fetch_add(changes, Ordering::Relaxed);
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
                    self.changes.fetch_sub(changes, Ordering::Relaxed);
                }
                broken(error)
            })?;
            let status = answer.status();
            let limit = if status.is_success() { ANSWER } else { REFUSAL };
            match whole(answer, limit).await.map_err(broken)? {
                Some(body) => Ok((status, body)),
                None => Err(Failure::TooLarge {
                    what: format!("the answer of {} to {}", transport.name, request.path),
                    limit: limit as u64,
                }),
            }
        };
        let Some(limit) = request.limit else {
            return exchange.await;
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::Unreachable {
                    endpoint: transport.name.clone(),
                    reason: format!("no answer within {} s", limit.as_secs()).into(),
                })
            })
    }

    /// Whether the server may have been told to change anything.
    pub fn has_changed_anything(&self) -> bool {
        self.changes.load(Ordering::Relaxed) > 0
    }
}

/// The whole body of an answer. `None` for one of more than `limit` bytes, of
/// which no more is read.
pub async fn whole(mut answer: Response, limit: usize) -> reqwest::Result<Option<Bytes>> {
    let told = answer.content_length();
    if told.is_some_and(|length| length > limit as u64) {
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

    /// What is read of this, by a reader that takes ten bytes.
    async fn read(answer: &'static [u8]) -> Option<Bytes> {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            // Whatever is asked; nothing is answered before.
            stream.read_buf(&mut Vec::new()).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let plain = super::super::transport::plain_config().unwrap();
        let builder = reqwest::Client::builder().tls_backend_preconfigured(plain);
        let answer = builder.build().unwrap().get(url).send().await.unwrap();
        let body = whole(answer, 10).await.unwrap();
        serving.await.unwrap();
        body
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let told = read(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").await;
        assert_eq!(told.as_deref(), Some(&b"0123456789"[..]));
        let sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n";
        assert_eq!(read(sent).await.as_deref(), Some(&b"0123456789"[..]));
        // One that says it is longer is not waited for, and one that says
        // nothing is left as soon as it is.
        let told = read(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n").await;
        assert_eq!(told, None);
        let sent =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n567890\r\n";
        assert_eq!(read(sent).await, None);
    }
}
