//! Lookup and removal of checkpoints.

use super::optional;
use crate::model::{Backend, Checkpoint, Error, Label, Name, Result, Subject};

/// Finds a checkpoint of a pixel; `Error::NotFound` if either is missing.
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

/// Deletes a temporary checkpoint, after the server has finished creating it. A
/// missing one counts as deleted.
pub(super) async fn delete_temporary(
    backend: &dyn Backend,
    name: &Name,
    label: &Label,
) -> Result<()> {
    backend.wait_idle(name).await?;
    optional(backend.delete_checkpoint(name, label).await).map(drop)
}
