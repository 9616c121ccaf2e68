//! One exchange over HTTP: what is asked, its deadline, the whole answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method, StatusCode};
use serde::Serialize;

use super::failure::Failure;
use super::transport::Transport;

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
            body: Body::default(),
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
        self.body = body.into();
        Ok(self)
    }

    pub fn upload(mut self, headers: &[(&'static str, String)], body: Body) -> Self {
        self.headers.extend_from_slice(headers);
        self.body = body;
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
    /// The status and the whole body of the answer.
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
        let mut builder = client
            .request(request.method, transport.url(&request.path))
            .body(request.body);
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
            Ok((status, answer.bytes().await.map_err(broken)?))
        };
        let Some(limit) = request.limit else {
            return exchange.await;
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::Unreachable {
                    endpoint: transport.name.clone(),
                    reason: format!("no answer within {} s", limit.as_secs()),
                })
            })
    }

    /// Whether the server may have been told to change anything.
    pub fn has_changed_anything(&self) -> bool {
        self.changes.load(Ordering::Relaxed) > 0
    }
}
