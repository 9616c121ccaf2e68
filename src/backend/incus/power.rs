//! Starts, stops and deletes instances, and waits for their operations.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::error::Failure;
use super::messages::{Meaning, RESTORE_OPERATION};
use super::operation::{BUSY, retry_while, retry_while_busy};
use super::wire::Operation;
use super::{full_disk, instance_lock, instances, port_security, templates};
use crate::file_lock::LockMode;
use crate::model::{Error, Name, Reason, Result, Status, Subject};
use crate::retry;

/// Deadline of a change of the power state.
const CHANGE: Duration = Duration::from_secs(120);
/// How long to wait for other operations on an instance.
const IDLE: Duration = Duration::from_secs(60);

async fn change_state(
    client: &Client,
    name: &Name,
    body: Value,
    doing: &str,
) -> Result<(), Failure> {
    let path = format!("{}/state", instances::path(name));
    client.run(Method::PUT, &path, &body, doing, CHANGE).await
}

pub(super) async fn start(client: &Client, name: &Name) -> Result<()> {
    let _lock = instance_lock::lock(client, name, LockMode::Shared).await?;
    start_locked(client, name).await
}

/// Like [`start`], for a caller that has locked the instance.
pub(super) async fn start_locked(client: &Client, name: &Name) -> Result<()> {
    port_security::ensure(client, name).await?;
    let body = json!({"action": "start", "timeout": -1});
    let start = || async {
        templates::remove(client, name).await?;
        retry_while_busy(|| change_state(client, name, body.clone(), "starting the pixel")).await
    };
    let outcome = full_disk::retry_if_full(client, name, start).await;
    if let Err(failure) = &outcome
        && let Some(error) = start_error(client, name, failure).await
    {
        return Err(error);
    }
    ok_if_in_state(client, name, outcome, Status::Running).await
}

/// Returns the error for a failed start if the cause is known.
async fn start_error(client: &Client, name: &Name, failure: &Failure) -> Option<Error> {
    match failure.meaning()? {
        Meaning::RouteExists => {
            let route = Subject::Route(failure.detail()?);
            Some(Error::AlreadyExists(route))
        }
        Meaning::BridgeFull => Some(Error::Unsupported {
            operation: "another running pixel on this network".into(),
            reason: Reason::from("its bridge has the maximum of 1023 interfaces")
                .with_hint("stop a pixel, or set network.bridge to use a second gateway"),
        }),
        Meaning::StartFailed => port_security::start_error(client, name).await,
        _ => None,
    }
}

pub(super) async fn stop(client: &Client, name: &Name, grace: Duration) -> Result<()> {
    let _lock = instance_lock::lock(client, name, LockMode::Shared).await?;
    stop_locked(client, name, grace).await
}

/// Like [`stop`], for a caller that has locked the instance.
pub(super) async fn stop_locked(client: &Client, name: &Name, grace: Duration) -> Result<()> {
    let graceful = json!({"action": "stop", "timeout": grace.as_secs()});
    let force = json!({"action": "stop", "timeout": -1, "force": true});
    let stop = |body: Value| {
        retry_while_busy(move || change_state(client, name, body.clone(), "stopping the pixel"))
    };
    let outcome = if grace.is_zero() {
        stop(force).await
    } else {
        match stop(graceful).await {
            Err(failure @ Failure::Api { .. })
                if !failure.is_not_found()
                    && failure.meaning() != Some(Meaning::AlreadyStopped) =>
            {
                tracing::debug!(%failure, "graceful stop failed, forcing");
                stop(force).await
            }
            other => other,
        }
    };
    ok_if_in_state(client, name, outcome, Status::Stopped).await
}

/// Ignores the failure of a change if the instance is in the state `goal`.
async fn ok_if_in_state(
    client: &Client,
    name: &Name,
    outcome: Result<(), Failure>,
    goal: Status,
) -> Result<()> {
    let Err(failure) = outcome else {
        return Ok(());
    };
    let is_refusal = matches!(failure, Failure::Api { .. });
    if is_refusal && instances::get(client, name).await?.status == goal {
        return Ok(());
    }
    Err(failure.into_error_for(Subject::pixel(name)))
}

/// Stops and deletes the instance. Retries if another operation runs, or if
/// another command has started the instance in between.
pub(super) async fn destroy(client: &Client, name: &Name) -> Result<()> {
    let target = instances::path(name);
    let can_retry =
        |failure: &Failure| failure.is_busy() || failure.meaning() == Some(Meaning::StillRunning);
    let _lock = instance_lock::lock(client, name, LockMode::Shared).await?;
    let (body, doing) = (json!({}), "deleting the pixel");
    let attempt = || async {
        stop_locked(client, name, Duration::ZERO).await?;
        client
            .run(Method::DELETE, &target, &body, doing, CHANGE)
            .await
    };
    retry_while(can_retry, BUSY, attempt)
        .await
        .map_err(|failure| delete_error(failure, name))
}

fn delete_error(failure: Failure, name: &Name) -> Error {
    match (failure.meaning(), failure.detail()) {
        (Some(Meaning::DiskLost), Some(path)) => Error::WrongState {
            subject: Subject::Disk(path),
            state: "lost: a plain directory is in its place".into(),
        },
        _ => failure.into_error_for(Subject::pixel(name)),
    }
}

/// Waits until no operation on the instance runs, and until no pending request
/// of this process may start an operation.
pub(super) async fn wait_idle(client: &Client, name: &Name) -> Result<()> {
    client.drain(IDLE).await;
    wait_for_operations(client, name, &|_| true).await
}

/// Waits until no operation changes the instance. Ignores running commands.
pub(super) async fn wait_until_unchanged(client: &Client, name: &Name) -> Result<()> {
    wait_for_operations(client, name, &|operation| operation.class != "websocket").await
}

/// Waits while a command on another machine, which does not share this
/// machine's lock files, restores a snapshot.
pub(super) async fn wait_for_foreign_restore(client: &Client, name: &Name) -> Result<()> {
    let restore = |operation: &Operation| operation.description == RESTORE_OPERATION;
    wait_for_operations(client, name, &restore).await
}

async fn wait_for_operations(
    client: &Client,
    name: &Name,
    is_relevant: &(dyn Fn(&Operation) -> bool + Sync),
) -> Result<()> {
    let target = instances::path(name);
    let idle = retry::until(IDLE, || async {
        match running_operation(client, &target, is_relevant).await {
            Ok(None) if client.awaits_late_request() => retry::Next::Again(()),
            Ok(None) => retry::Next::Done(Ok(())),
            Ok(Some(id)) => {
                let wait = format!("/1.0/operations/{id}/wait?timeout=5");
                let _ = client.wait_operation(&wait).await;
                retry::Next::Again(())
            }
            Err(failure) => retry::Next::Done(Err(failure.into())),
        }
    });
    idle.await.unwrap_or_else(|()| {
        Err(Error::TimedOut {
            doing: format!("waiting for operations on {}", Subject::pixel(name)),
            after: IDLE,
        })
    })
}

/// Returns the id of a relevant operation on the instance at `target`.
async fn running_operation(
    client: &Client,
    target: &str,
    is_relevant: &(dyn Fn(&Operation) -> bool + Sync),
) -> Result<Option<String>, Failure> {
    let all: BTreeMap<String, Vec<Operation>> = client.get("/1.0/operations?recursion=1").await?;
    let snapshots = format!("{target}/");
    Ok(all
        .into_values()
        .flatten()
        .filter(|operation| operation.status_code < 200 && is_relevant(operation))
        .find(|operation| {
            operation
                .resources
                .iter()
                .flat_map(BTreeMap::values)
                .flatten()
                .map(|resource| resource.split('?').next().unwrap_or(resource))
                .any(|resource| resource == target || resource.starts_with(&snapshots))
        })
        .map(|operation| operation.id))
}
