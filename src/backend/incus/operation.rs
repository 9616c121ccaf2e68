//! Operations: background work on the server, with a local deadline and
//! cancellation on the server.

use std::time::Duration;

use reqwest::Method;
use reqwest::multipart::Form;
use serde::Serialize;

use super::client::{Client, REQUEST};
use super::error::Failure;
use super::wire::Operation;
use crate::model::Error;
use crate::retry;

/// How long to wait for another operation on the same instance.
pub(super) const BUSY: Duration = Duration::from_secs(30);
/// Deadline of a request that cancels an operation.
const CANCEL: Duration = Duration::from_secs(5);

/// An operation on the server. Dropping this value early requests cancellation if
/// possible. Most operations cannot be canceled (`may_cancel` is false) and continue to
/// their end. [`Backend::wait_idle`](crate::model::Backend::wait_idle) waits for these
/// operations.
#[derive(Debug)]
pub struct Running {
    client: Client,
    pub(super) operation: Operation,
    ended: bool,
}

impl Client {
    /// Sends a request that starts an operation on the server.
    ///
    /// The request continues if the caller is dropped, so that a started operation
    /// is always known to the client.
    pub async fn start(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Running, Failure> {
        let request = self.request(method, path)?.timeout(REQUEST).json(body);
        self.launch(request).await
    }

    /// Starts an operation and waits for the end like [`Running::wait`].
    pub(super) async fn run(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        doing: &str,
        deadline: Duration,
    ) -> Result<(), Failure> {
        let running = self.start(method, path, body).await?;
        running.wait(doing, deadline).await.map(drop)
    }

    /// Like [`Client::start`], with a multipart form, additional headers, and an
    /// upload without a time limit.
    pub async fn start_upload(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
        form: Form,
    ) -> Result<Running, Failure> {
        let mut request = self.request(Method::POST, path)?.multipart(form);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.launch(request).await
    }
}

/// Retries `attempt` while another operation runs on the instance.
pub(super) async fn retry_while_busy<F>(attempt: impl Fn() -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    retry_while(Failure::is_busy, BUSY, attempt).await
}

/// Retries `attempt` while the failure is temporary, for at most `limit`. Then
/// returns the last failure.
pub(super) async fn retry_while<F>(
    is_temporary: impl Fn(&Failure) -> bool,
    limit: Duration,
    attempt: impl Fn() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    retry::until(limit, || async {
        match attempt().await {
            Err(failure) if is_temporary(&failure) => retry::Next::Again(failure),
            outcome => retry::Next::Done(outcome),
        }
    })
    .await
    .unwrap_or_else(Err)
}

impl Running {
    pub(super) fn new(client: Client, operation: Operation) -> Self {
        Self {
            client,
            operation,
            ended: false,
        }
    }

    /// Waits for the end of the operation. A failed operation is `Failure::Api`. After
    /// `deadline`, fails with `Error::TimedOut` while the operation continues.
    pub async fn wait(mut self, doing: &str, deadline: Duration) -> Result<Operation, Failure> {
        tokio::time::timeout(deadline, self.finish())
            .await
            .unwrap_or_else(|_| Err(Failure::timed_out(doing, deadline)))
    }

    /// Waits for the end of the operation without a deadline.
    pub(super) async fn finish(&mut self) -> Result<Operation, Failure> {
        // An expired timeout on the server would look like a failed operation.
        let path = format!("/1.0/operations/{}/wait?timeout=-1", self.operation.id);
        let outcome = self.client.wait_operation(&path).await;
        self.ended = !matches!(outcome, Err(Failure::Other(Error::Unreachable { .. })));
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
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let client = self.client.clone();
        let path = format!("/1.0/operations/{}", self.operation.id);
        let cancel = async move {
            let request = client.request(Method::DELETE, &path)?.timeout(CANCEL);
            client.decode::<serde_json::Value>(request).await
        };
        self.client.tasks().spawn_on(cancel, &runtime);
    }
}
