//! Creates, finds, restores and deletes checkpoints.

use time::OffsetDateTime;
use time::macros::format_description;
use tokio_util::sync::CancellationToken;

use super::gateway::GatewaySpec;
use super::network::Network;
use super::policy_properties::select;
use super::restore::restore_marks;
use super::{Progress, optional, restore};
use crate::model::{Backend, Checkpoint, Error, Label, Name, Result, Subject, unless_cancelled};

/// Number of default labels that are tried for one second.
const MAX_PER_SECOND: u32 = 100;

/// Creates a checkpoint and returns its label, by default the local time.
///
/// Fails with [`Error::AlreadyExists`] if the label is in use. Default labels
/// of the same second are numbered.
pub async fn create_checkpoint(
    backend: &dyn Backend,
    name: &Name,
    label: Option<Label>,
) -> Result<Label> {
    if let Some(label) = label {
        backend.checkpoint(name, &label, None).await?;
        return Ok(label);
    }
    let mut number = 1;
    loop {
        let label = label_of_now(number)?;
        match backend.checkpoint(name, &label, None).await {
            Err(Error::AlreadyExists(_)) if number <= MAX_PER_SECOND => number += 1,
            outcome => return outcome.map(|()| label),
        }
    }
}

/// Returns default label `number` for the current second, counted from 1.
fn label_of_now(number: u32) -> Result<Label> {
    let now = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
    let format = format_description!("px-[year][month][day]-[hour][minute][second]");
    let second = now
        .format(format)
        .map_err(|e| Error::Invalid(e.to_string().into()))?;
    let label = match number {
        1 => second,
        number => format!("{second}-{number}"),
    };
    Ok(label.parse()?)
}

/// Restores a checkpoint like [`restore`](super::restore()). If canceled, waits
/// until the server has finished, so that the disk is complete, and fails with
/// [`Error::Cancelled`].
pub async fn restore_or_wait(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway_spec: &GatewaySpec,
    name: &Name,
    label: &Label,
    progress: Progress<'_>,
) -> Result<()> {
    let before = unless_cancelled(cancel, backend.get(name)).await?;
    progress("restoring");
    let restoring = restore(backend, gateway_spec, name, label, None);
    let outcome = unless_cancelled(cancel, restoring).await;
    if matches!(outcome, Err(Error::Cancelled)) {
        progress("waiting for the server to finish the restore");
        backend.wait_idle(name).await?;
        restore_marks(backend, &before).await?;
        let checkpoint = find_checkpoint(backend, name, label).await?;
        let found = select(&backend.get(name).await?.properties);
        // The policy during the restore is recorded, so the disk was not restored.
        if found != select(&checkpoint.properties) {
            backend
                .set_properties(name, &select(&before.properties))
                .await?;
        }
        Network::of_instance(&before, gateway_spec)
            .reconcile(backend)
            .await;
    }
    outcome
}

/// Finds a checkpoint. `Error::NotFound` if pixel or checkpoint is missing.
pub(super) async fn find_checkpoint(
    backend: &dyn Backend,
    name: &Name,
    label: &Label,
) -> Result<Checkpoint> {
    let checkpoints = backend.checkpoints(name).await?;
    checkpoints
        .into_iter()
        .find(|checkpoint| checkpoint.label == *label)
        .ok_or_else(|| Error::NotFound(Subject::checkpoint(name, label)))
}

/// Deletes a temporary checkpoint after the server has finished creating it.
/// Succeeds if the checkpoint does not exist.
pub(super) async fn delete_temporary(
    backend: &dyn Backend,
    name: &Name,
    label: &Label,
) -> Result<()> {
    backend.wait_idle(name).await?;
    optional(backend.delete_checkpoint(name, label).await).map(drop)
}
