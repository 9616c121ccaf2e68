//! Rollback of a command that failed or was interrupted.
//!
//! Each instance is tracked **before** the request that creates it, because a
//! request that seems to fail may still succeed on the server. The rollback
//! reads the instances from the server and deletes only instances that record
//! this command as their creator.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::checkpoint::delete_temporary;
use super::creator::Creator;
use super::optional;
use crate::model::{Backend, Error, Label, Name, Result};

/// Time limit for deleting a pixel or checkpoint.
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

    /// Deletes all tracked pixels in parallel, then the tracked checkpoints.
    /// Returns the leftovers that could not be deleted, each with a command.
    pub async fn unwind(self) -> Vec<String> {
        if !self.backend.has_sent_writes() {
            return Vec::new();
        }
        let pixels = join_all(self.pixels.iter().map(|name| {
            let deletion = delete_pixel(self.backend, self.creator, name);
            let pixel = format!("pixel {:?}", name.as_str());
            leftover(deletion, pixel, format!("destroy --force {name}"))
        }))
        .await;
        let checkpoints = join_all(self.checkpoints.iter().map(|(name, label)| {
            let deletion = delete_temporary(self.backend, name, label);
            let checkpoint = format!("checkpoint {:?} of {:?}", label.as_str(), name.as_str());
            leftover(
                deletion,
                checkpoint,
                format!("checkpoint delete {name} {label}"),
            )
        }))
        .await;
        pixels.into_iter().chain(checkpoints).flatten().collect()
    }
}

/// Returns a description of `what` and the command if `deletion` fails.
async fn leftover(
    deletion: impl Future<Output = Result<()>>,
    what: String,
    command: String,
) -> Option<String> {
    let error = match timeout(TIMEOUT, deletion).await {
        Ok(outcome) => outcome.err()?,
        Err(_) => Error::TimedOut {
            doing: "cleaning up".into(),
            after: TIMEOUT,
        },
    };
    Some(format!(
        "{what} ({error}); remove it with: pixels {command}"
    ))
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
