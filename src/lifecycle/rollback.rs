//! Undo of a command that failed or was interrupted.
//!
//! A step is noted **before** its request, since a request that seems to have
//! failed may still succeed on the server. Undoing asks the server what is
//! really there and deletes only what carries this command's own claim.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::creator::Creator;
use crate::model::{Backend, Error, Label, Name, Result};

const STEP: Duration = Duration::from_secs(60);

pub(super) struct Rollback<'a> {
    backend: &'a dyn Backend,
    creator: &'a Creator,
    pixels: Vec<Name>,
    checkpoints: Vec<(Name, Label)>,
}

impl<'a> Rollback<'a> {
    pub fn new(backend: &'a dyn Backend, creator: &'a Creator) -> Self {
        Self {
            backend,
            creator,
            pixels: Vec::new(),
            checkpoints: Vec::new(),
        }
    }

    pub fn track_pixel(&mut self, name: &Name) {
        self.pixels.push(name.clone());
    }

    pub fn track_checkpoint(&mut self, name: &Name, label: &Label) {
        self.checkpoints.push((name.clone(), label.clone()));
    }

    /// Undoes everything noted, side by side; returns what is still there,
    /// each with the command that removes it.
    pub async fn unwind(self) -> Vec<String> {
        if !self.backend.has_sent_writes() {
            return Vec::new();
        }
        let pixels = join_all(self.pixels.iter().map(|name| async {
            let undone = limited(remove_pixel(self.backend, self.creator, name)).await;
            undone.err().map(|error| {
                format!(
                    "pixel {name:?} ({error}); remove it with: pixels destroy --force {name}",
                    name = name.as_str()
                )
            })
        }))
        .await;
        let backend = self.backend;
        let checkpoints = join_all(self.checkpoints.iter().map(|(name, label)| async move {
            let undone = limited(remove_checkpoint(backend, name, label)).await;
            undone.err().map(|error| {
                format!(
                    "checkpoint {:?} of {:?} ({error}); remove it with: pixels checkpoint delete {name} {label}",
                    label.as_str(),
                    name.as_str()
                )
            })
        }))
        .await;
        pixels.into_iter().chain(checkpoints).flatten().collect()
    }
}

async fn limited(step: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(STEP, step).await.unwrap_or_else(|_| {
        Err(Error::TimedOut {
            doing: "cleaning up".into(),
            after: STEP,
        })
    })
}

async fn remove_pixel(backend: &dyn Backend, creator: &Creator, name: &Name) -> Result<()> {
    backend.wait_idle(name).await?;
    let instance = match backend.get(name).await {
        Ok(instance) => instance,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    if Creator::recorded_on(&instance).as_ref() != Some(creator) {
        return Ok(());
    }
    ok_if_missing(backend.destroy(name).await)
}

/// A temporary checkpoint: settle first, it may still be in the making.
pub(super) async fn remove_checkpoint(
    backend: &dyn Backend,
    name: &Name,
    label: &Label,
) -> Result<()> {
    backend.wait_idle(name).await?;
    ok_if_missing(backend.delete_checkpoint(name, label).await)
}

fn ok_if_missing(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
