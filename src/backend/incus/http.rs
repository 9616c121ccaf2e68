//! Sends HTTP requests with a deadline and reads complete answers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode};

use super::error::Failure;
use super::transport::Transport;
use crate::model::Error;

/// Maximum size of a successful answer. An instance with its full state has
/// about 8 KiB, so thousands of instances fit.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Maximum size of an error answer, usually one sentence.
pub(super) const MAX_ERROR: usize = 1024 * 1024;

/// The HTTP client, created on first use.
#[derive(Debug, Default)]
pub(super) struct Http {
    client: OnceLock<reqwest::Client>,
    /// Number of non-`GET` requests that may have reached the server.
    writes: AtomicUsize,
}

impl Http {
    /// Builds a request without a body or a deadline. `path` includes the query
    /// with the project.
    pub fn request(
        &self,
        transport: &Transport,
        method: Method,
        path: &str,
    ) -> Result<RequestBuilder, Failure> {
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let made = transport.http()?;
                self.client.get_or_init(|| made)
            }
        };
        Ok(client.request(method, transport.url(path)))
    }

    /// Sends a request and returns the status and the complete body. Fails with
    /// `Error::TooLarge` if the body exceeds the limit. The request's timeout
    /// limits the duration of the whole exchange.
    pub async fn send(
        &self,
        endpoint: &str,
        path: &str,
        client: &reqwest::Client,
        mut request: Request,
    ) -> Result<(StatusCode, Bytes), Failure> {
        // The timeout error of reqwest does not contain the duration.
        let deadline = request.timeout_mut().take();
        let writes = usize::from(request.method() != Method::GET);
        self.writes.fetch_add(writes, Ordering::Relaxed);
        let broken = |error| Failure::http(endpoint, &error);
        let exchange = async {
            let answer = client.execute(request).await.map_err(|error| {
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
                None => Err(Failure::Other(Error::TooLarge {
                    what: format!("the answer of {endpoint} to {path}"),
                    limit: limit as u64,
                })),
            }
        };
        let Some(deadline) = deadline else {
            return exchange.await;
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| {
                let reason = format!("no answer within {} s", deadline.as_secs());
                Err(Failure::unreachable(endpoint, reason))
            })
    }

    /// Whether a request that changes something may have reached the server.
    pub fn has_sent_writes(&self) -> bool {
        self.writes.load(Ordering::Relaxed) > 0
    }
}

/// Reads the body of an answer. Returns `None` without reading further if the
/// body exceeds `limit` bytes.
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
    async fn read(answer: String) -> Option<Bytes> {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            // Wait for the request.
            stream.read_buf(&mut Vec::new()).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
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
        let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n";
        for (sent, expected) in [
            ("Content-Length: 10\r\n\r\n0123456789", true),
            (&format!("{chunked}5\r\n56789\r\n0\r\n\r\n"), true),
            // A `Content-Length` above the limit fails at once, a longer body at the first
            // byte above the limit.
            ("Content-Length: 11\r\n\r\n", false),
            (&format!("{chunked}6\r\n567890\r\n"), false),
        ] {
            let body = read(format!("HTTP/1.1 200 OK\r\n{sent}")).await;
            let expected = expected.then_some(&b"0123456789"[..]);
            assert_eq!(body.as_deref(), expected, "{sent}");
        }
    }
}
