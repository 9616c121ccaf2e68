//! Implements checkpoints with instance snapshots.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Client, encode};
use super::instances::{self, path, timestamp};
use super::operation::retry_while_busy;
use super::port_security::{self, Port};
use super::wire::Snapshot;
use super::{instance_lock, power};
use crate::file_lock::LockMode;
use crate::model::{Checkpoint, Error, Label, Name, Result, Status, Subject};

/// Deadline for creating or deleting a snapshot.
const SNAPSHOT: Duration = Duration::from_secs(5 * 60);
/// Deadline of a restore, including the stop and the start of the instance.
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
        client.require("snapshot_expiry_creation").await?;
        let until = (OffsetDateTime::now_utc() + lifetime).format(&Rfc3339);
        body["expires_at"] = json!(until.map_err(|e| Error::Invalid(e.to_string().into()))?);
    }
    let _lock = instance_lock::lock(client, name, LockMode::Shared).await?;
    power::wait_for_foreign_restore(client, name).await?;
    let path = format!("{}/snapshots", path(name));
    let doing = "creating the checkpoint";
    retry_while_busy(|| client.run(Method::POST, &path, &body, doing, SNAPSHOT))
        .await
        .map_err(|failure| {
            let subject = match failure.is_not_found() {
                true => Subject::pixel(name),
                false => Subject::checkpoint(name, label),
            };
            failure.into_error_for(subject)
        })
}

pub(super) async fn list(client: &Client, name: &Name) -> Result<Vec<Checkpoint>> {
    let mut found: Vec<Snapshot> = client
        .get(&format!("{}/snapshots?recursion=1", path(name)))
        .await
        .map_err(|failure| failure.into_error_for(Subject::pixel(name)))?;
    // The time stamps are in UTC with nanoseconds, so their text sorts by time.
    found.sort_by(|a, b| a.created_at.cmp(&b.created_at));
    let checkpoint = |snapshot: Snapshot| {
        // Other tools may create snapshots whose names are not valid labels.
        let label: Label = snapshot.name.parse().ok()?;
        Some(Checkpoint {
            properties: instances::properties(&snapshot.config),
            temporary: label.temporary_id().is_some(),
            label,
            created_at: timestamp(&snapshot.created_at),
            size: u64::try_from(snapshot.size).ok(),
        })
    };
    Ok(found.into_iter().filter_map(checkpoint).collect())
}

pub(super) async fn restore(client: &Client, name: &Name, label: &Label) -> Result<()> {
    let _lock = instance_lock::lock(client, name, LockMode::Exclusive).await?;
    // Commands on other machines do not use the local lock.
    power::wait_until_unchanged(client, name).await?;
    let snapshot = require_snapshot(client, name, label).await?;
    let before = instances::get(client, name).await?.status;
    // The daemon restarts a running instance with the configuration of the snapshot,
    // which may be older than the security of the port.
    let port = Port::find(&name.instance(), &snapshot.expanded_devices);
    let is_secured = port_security::missing(&snapshot.config, port.as_ref()).is_none()
        && port_security::missing_syscalls(&snapshot.config).is_none();
    if before == Status::Running && !is_secured {
        power::stop_locked(client, name, Duration::ZERO).await?;
    }
    let body = json!({"restore": label.as_str()});
    let target = path(name);
    let attempts = AtomicU32::new(0);
    retry_while_busy(|| async {
        attempts.fetch_add(1, Relaxed);
        let doing = "restoring the checkpoint";
        client
            .run(Method::PUT, &target, &body, doing, RESTORE)
            .await
    })
    .await
    .map_err(|failure| failure.into_error_for(Subject::checkpoint(name, label)))?;
    // A failed attempt has stopped the pixel, so the next attempt leaves it stopped.
    if before == Status::Running && (attempts.load(Relaxed) > 1 || !is_secured) {
        return power::start_locked(client, name).await;
    }
    match is_secured {
        true => Ok(()),
        false => port_security::ensure(client, name).await,
    }
}

pub(super) async fn delete(client: &Client, name: &Name, label: &Label) -> Result<()> {
    let _lock = instance_lock::lock(client, name, LockMode::Shared).await?;
    power::wait_for_foreign_restore(client, name).await?;
    require_snapshot(client, name, label).await?;
    let target = snapshot_path(name, label);
    let attempts = AtomicU32::new(0);
    retry_while_busy(|| async {
        attempts.fetch_add(1, Relaxed);
        let (body, doing) = (json!({}), "deleting the checkpoint");
        client
            .run(Method::DELETE, &target, &body, doing, SNAPSHOT)
            .await
    })
    .await
    .or_else(|failure| match failure {
        // An earlier attempt deleted the snapshot before failing.
        failure if failure.is_not_found() && attempts.load(Relaxed) > 1 => Ok(()),
        failure => Err(failure.into_error_for(Subject::checkpoint(name, label))),
    })
}

/// Returns the snapshot. Fails if it is missing: some API calls report a missing
/// snapshot like a missing instance.
async fn require_snapshot(client: &Client, name: &Name, label: &Label) -> Result<Snapshot> {
    match client.get::<Snapshot>(&snapshot_path(name, label)).await {
        Ok(snapshot) => Ok(snapshot),
        Err(failure) if failure.is_not_found() => {
            instances::get(client, name).await?;
            Err(Error::NotFound(Subject::checkpoint(name, label)))
        }
        Err(failure) => Err(failure.into_error_for(Subject::pixel(name))),
    }
}
