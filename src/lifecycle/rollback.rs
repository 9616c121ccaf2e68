//! Undo of a command that failed or was interrupted.
//!
//! Each instance is tracked **before** the request that creates it, because a
//! request that seems to have failed may still succeed on the server. The undo
//! asks the server what exists and deletes only instances that record this
//! command as their creator.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::checkpoint::delete_temporary;
use super::creator::Creator;
use super::optional;
use crate::model::{Backend, Error, Label, Name, Result};

/// Timeout for the removal of one pixel or checkpoint.
const TIMEOUT: Duration = Duration::from_secs(60);

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

    /// Tracks a temporary checkpoint.
    pub fn track_checkpoint(&mut self, name: &Name, label: &Label) {
        self.checkpoints.push((name.clone(), label.clone()));
    }

    /// Deletes everything tracked: the pixels in parallel, then the checkpoints.
    /// Returns what could not be deleted, each with the command that will.
    pub async fn unwind(self) -> Vec<String> {
        if !self.backend.has_sent_writes() {
            return Vec::new();
        }
        let pixels = join_all(self.pixels.iter().map(|name| async {
            let deletion = with_timeout(delete_pixel(self.backend, self.creator, name)).await;
            deletion.err().map(|error| {
                format!(
                    "pixel {name:?} ({error}); remove it with: pixels destroy --force {name}",
                    name = name.as_str()
                )
            })
        }))
        .await;
        let backend = self.backend;
        let checkpoints = join_all(self.checkpoints.iter().map(|(name, label)| async move {
            let deletion = with_timeout(delete_temporary(backend, name, label)).await;
            deletion.err().map(|error| {
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

async fn with_timeout(deletion: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(TIMEOUT, deletion).await.unwrap_or_else(|_| {
        Err(Error::TimedOut {
            doing: "cleaning up".into(),
            after: TIMEOUT,
        })
    })
}

async fn delete_pixel(backend: &dyn Backend, creator: &Creator, name: &Name) -> Result<()> {
    backend.wait_idle(name).await?;
    match optional(backend.get(name).await)? {
        Some(instance) if Creator::recorded_on(&instance).as_ref() == Some(creator) => {
            optional(backend.destroy(name).await).map(drop)
        }
        _ => Ok(()),
    }
}
