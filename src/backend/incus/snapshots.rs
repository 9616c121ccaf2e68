//! Checkpoints, which are instance snapshots.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Client, encode};
use super::error::Failure;
use super::instances::{self, label as parse_label, path, timestamp};
use super::operation::retry_while_busy;
use super::wire::Snapshot;
use super::{instance_lock, power};
use crate::model::{Checkpoint, Error, Label, Name, Result, Status, Subject};

/// Deadline to take or delete a snapshot.
const SNAPSHOT: Duration = Duration::from_secs(5 * 60);
/// Deadline of a restore: stop, roll back, start.
const RESTORE: Duration = Duration::from_secs(10 * 60);

fn snapshot_path(name: &Name, label: &Label) -> String {
    format!("{}/snapshots/{}", path(name), encode(label.as_str()))
}

pub(super) async fn create(
    client: &Client,
    name: &Name,
    label: &Label,
    expires_in: Option<Duration>,
) -> Result<()> {
    let mut body = json!({"name": label.as_str(), "stateful": false});
    if let Some(lifetime) = expires_in {
        let supported = client.require("snapshot_expiry_creation").await;
        supported.map_err(Failure::into_error)?;
        let until = (OffsetDateTime::now_utc() + lifetime)
            .format(&Rfc3339)
            .map_err(|e| Error::Invalid(e.to_string().into()))?;
        body["expires_at"] = json!(until);
    }
    let about = |failure: Failure| failure.into_error_for(Subject::checkpoint(name, label));
    let _lock = instance_lock::lock_shared(client, name)
        .await
        .map_err(about)?;
    power::wait_for_foreign_restore(client, name).await?;
    let path = format!("{}/snapshots", path(name));
    let outcome = retry_while_busy(|| async {
        let running = client.start(Method::POST, &path, &body).await?;
        running
            .wait("taking the checkpoint", SNAPSHOT)
            .await
            .map(drop)
    });
    match outcome.await {
        Ok(()) => Ok(()),
        Err(failure) if failure.is_not_found() => Err(failure.into_error_for(Subject::pixel(name))),
        Err(failure) => Err(about(failure)),
    }
}

pub(super) async fn list(client: &Client, name: &Name) -> Result<Vec<Checkpoint>> {
    let found: Vec<Snapshot> = client
        .get(&format!("{}/snapshots?recursion=1", path(name)))
        .await
        .map_err(|failure| failure.into_error_for(Subject::pixel(name)))?;
    let mut checkpoints: Vec<(String, Checkpoint)> = found
        .into_iter()
        .filter_map(|snapshot| {
            // Other tools create names that are not valid labels.
            let label = parse_label(&snapshot.name)?;
            Some((
                snapshot.created_at.clone(),
                Checkpoint {
                    properties: instances::properties(&snapshot.config),
                    temporary: label.temporary_id().is_some(),
                    label,
                    created_at: timestamp(&snapshot.created_at),
                    size: u64::try_from(snapshot.size).ok(),
                },
            ))
        })
        .collect();
    // The time stamps have nanoseconds and are in UTC, so texts compare.
    checkpoints.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(checkpoints.into_iter().map(|(_, c)| c).collect())
}

pub(super) async fn restore(client: &Client, name: &Name, label: &Label) -> Result<()> {
    let about = |failure: Failure| failure.into_error_for(Subject::checkpoint(name, label));
    let _lock = instance_lock::lock_exclusive(client, name)
        .await
        .map_err(about)?;
    // Changes from other machines do not take the lock.
    power::wait_until_unchanged(client, name).await?;
    require_snapshot(client, name, label).await?;
    let before = instances::get(client, name).await?.status;
    let body = json!({"restore": label.as_str()});
    let target = path(name);
    let attempts = AtomicU32::new(0);
    retry_while_busy(|| async {
        attempts.fetch_add(1, Relaxed);
        let running = client.start(Method::PUT, &target, &body).await?;
        running
            .wait("restoring the checkpoint", RESTORE)
            .await
            .map(drop)
    })
    .await
    .map_err(about)?;
    // A failed attempt has stopped the pixel, so the next one leaves it stopped.
    if before == Status::Running && attempts.load(Relaxed) > 1 {
        power::start_locked(client, name).await?;
    }
    Ok(())
}

pub(super) async fn delete(client: &Client, name: &Name, label: &Label) -> Result<()> {
    let about = |failure: Failure| failure.into_error_for(Subject::checkpoint(name, label));
    let _lock = instance_lock::lock_shared(client, name)
        .await
        .map_err(about)?;
    power::wait_for_foreign_restore(client, name).await?;
    require_snapshot(client, name, label).await?;
    let target = snapshot_path(name, label);
    let attempts = AtomicU32::new(0);
    retry_while_busy(|| async {
        attempts.fetch_add(1, Relaxed);
        let running = client.start(Method::DELETE, &target, &json!({})).await?;
        running
            .wait("deleting the checkpoint", SNAPSHOT)
            .await
            .map(drop)
    })
    .await
    .or_else(|failure| match failure {
        // An earlier attempt deleted the snapshot and failed after that.
        failure if failure.is_not_found() && attempts.load(Relaxed) > 1 => Ok(()),
        failure => Err(about(failure)),
    })
}

/// Fails if the snapshot is missing. Some calls report a missing snapshot like a
/// missing instance, so this check comes first.
async fn require_snapshot(client: &Client, name: &Name, label: &Label) -> Result<()> {
    match client.get::<Snapshot>(&snapshot_path(name, label)).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_not_found() => {
            instances::get(client, name).await?;
            Err(Error::NotFound(Subject::checkpoint(name, label)))
        }
        Err(failure) => Err(Failure::into_error_for(failure, Subject::pixel(name))),
    }
}
