//! HTTP/1.1 on connections of our own keeping.
//!
//! The daemon reads the first bytes of a connection inside its accept loop,
//! so one that is open and silent holds up every client of the machine. The
//! usual connection pools open one on suspicion and put it aside when another
//! becomes free first; here a connection is opened only for a request that is
//! then sent on it.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
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
    /// The answer may come before the body has been sent.
    upload: bool,
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
            upload: false,
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
        self.upload = true;
        self
    }
}

/// Connections that have carried a request and wait for the next one.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<SendRequest<Body>>>,
    /// A request other than `GET` has left.
    changed: AtomicBool,
}

impl Pool {
    /// The status and the whole body of the answer.
    pub async fn send(
        &self,
        transport: &Transport,
        request: Request,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let limit = request.limit;
        let exchange = self.exchange(transport, request);
        match limit {
            None => exchange.await,
            Some(limit) => tokio::time::timeout(limit, exchange)
                .await
                .unwrap_or_else(|_| {
                    Err(Failure::Unreachable {
                        endpoint: transport.name.clone(),
                        reason: format!("no answer within {} s", limit.as_secs()),
                    })
                }),
        }
    }

    async fn exchange(
        &self,
        transport: &Transport,
        request: Request,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let mut builder = hyper::Request::builder()
            .method(request.method)
            .uri(request.path)
            .header(HOST, transport.host());
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        let upload = request.upload;
        let mut request = builder
            .body(request.body)
            .map_err(|e| Failure::Protocol(e.to_string()))?;
        let broken = |error: hyper::Error| Failure::http(&transport.name, &error);
        let reads = request.method() == Method::GET;
        while let Some(mut sender) = self.take().await {
            self.changed.fetch_or(!reads, Ordering::Relaxed);
            match sender.try_send_request(request).await {
                Ok(answer) => return self.receive(sender, answer, upload).await.map_err(broken),
                Err(mut error) => match error.take_message() {
                    // Closed while it was idle: nothing was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(broken(error.into_error())),
                },
            }
        }
        let stream = TokioIo::new(transport.connect().await?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn StdError, "connection");
            }
        });
        self.changed.fetch_or(!reads, Ordering::Relaxed);
        let answer = sender.send_request(request).await.map_err(broken)?;
        self.receive(sender, answer, upload).await.map_err(broken)
    }

    /// Whether the server may have been told to change anything.
    pub fn has_changed_anything(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    async fn receive(
        &self,
        sender: SendRequest<Body>,
        answer: hyper::Response<hyper::body::Incoming>,
        upload: bool,
    ) -> Result<(StatusCode, Bytes), hyper::Error> {
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if !upload {
            self.idle().push(sender);
        }
        Ok((status, body))
    }

    /// An idle connection that is still open.
    async fn take(&self) -> Option<SendRequest<Body>> {
        loop {
            let mut sender = self.idle().pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Body>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
