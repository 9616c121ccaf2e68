//! Operations: background work on the server, with a deadline here and
//! cancellation there.

use std::time::Duration;

use reqwest::Method;
use reqwest::multipart::Form;
use serde::Serialize;

use super::client::{Client, REQUEST};
use super::error::Failure;
use super::http::Request;
use super::wire::Operation;
use crate::retry;

/// How long another operation on the same instance is waited for.
pub(super) const BUSY: Duration = Duration::from_secs(30);
/// Deadline of a request to cancel an operation.
const CANCEL: Duration = Duration::from_secs(5);

/// An operation that runs on the server. Dropping it before its end asks the
/// server to cancel it if the server can; most operations cannot be canceled
/// (`may_cancel` is false) and run to their end, for which
/// [`Backend::wait_idle`](crate::model::Backend::wait_idle) waits.
#[derive(Debug)]
pub struct Running {
    client: Client,
    operation: Operation,
    ended: bool,
}

impl Client {
    /// Sends a request that starts an operation on the server.
    ///
    /// The request is carried to its answer even if the caller is dropped, so
    /// that it is always known whether the operation was started.
    pub async fn start(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Running, Failure> {
        let request = self.request(method, path).deadline(REQUEST).json(body)?;
        self.launch_operation(path, request).await
    }

    /// Like [`Client::start`], with a multipart form, additional headers and no
    /// time limit for the upload.
    pub async fn start_upload(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
        form: Form,
    ) -> Result<Running, Failure> {
        let request = self.request(Method::POST, path).upload(headers, form);
        self.launch_operation(path, request).await
    }

    async fn launch_operation(&self, path: &str, request: Request) -> Result<Running, Failure> {
        Ok(Running {
            client: self.clone(),
            operation: self.launch(path, request).await?,
            ended: false,
        })
    }
}

/// Repeats `attempt` while another operation works on the instance, for at most
/// [`BUSY`]; then fails with the last failure.
pub(super) async fn retry_while_busy<F>(attempt: impl Fn() -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    retry::until(BUSY, || async {
        match attempt().await {
            Err(failure) if failure.is_busy() => retry::Next::Again(failure),
            outcome => retry::Next::Done(outcome),
        }
    })
    .await
    .unwrap_or_else(Err)
}

impl Running {
    pub(super) fn id(&self) -> &str {
        &self.operation.id
    }

    pub(super) fn metadata(&self) -> &serde_json::Value {
        &self.operation.metadata
    }

    /// Waits for the end. A failed operation is `Failure::Api`. After
    /// `deadline` this is `Failure::TimedOut`, and the operation continues.
    pub async fn wait(mut self, doing: &str, deadline: Duration) -> Result<Operation, Failure> {
        let waited = tokio::time::timeout(deadline, self.finish()).await;
        waited.unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                doing: doing.to_owned(),
                after: deadline,
            })
        })
    }

    /// Waits for the end without a deadline.
    pub(super) async fn finish(&mut self) -> Result<Operation, Failure> {
        // The answer to an expired server-side timeout looks like a failure.
        let path = format!("/1.0/operations/{}/wait?timeout=-1", self.operation.id);
        let outcome = self.client.wait_operation(&path).await;
        self.ended = !matches!(outcome, Err(Failure::Unreachable { .. }));
        let operation = outcome?;
        match operation.status_code {
            200 => Ok(operation),
            code => Err(Failure::Api {
                code: u16::try_from(code).unwrap_or(500),
                message: if operation.err.is_empty() {
                    format!("operation ended as {:?}", operation.status)
                } else {
                    operation.err
                },
            }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended || !self.operation.may_cancel {
            return;
        }
        let client = self.client.clone();
        let path = format!("/1.0/operations/{}", self.operation.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = self.client.tasks().clone();
            tasks.spawn_on(
                async move {
                    let request = client.request(Method::DELETE, &path);
                    let _ = client.execute(&path, request.deadline(CANCEL)).await;
                },
                &runtime,
            );
        }
    }
}
