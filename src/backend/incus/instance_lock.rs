//! Who may change an instance, among the commands of one user on this machine.
//!
//! Incus 6 takes an instance's disk off its place while it restores a
//! snapshot, and lets other requests mount the same instance meanwhile: on
//! btrfs that makes an empty folder in the place, the restored disk goes into
//! it, and the instance neither starts nor lets itself be deleted any more.
//! So a restore has the instance to itself.

use std::time::Duration;

use super::client::Client;
use super::error::Failure;
use crate::file_lock::{self, FileLock, LockMode};
use crate::model::{Name, fnv1a};

/// As long as the longest that somebody else may be at it.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// Instances that share a file only wait for each other's restores.
const FILES: u32 = 64;

/// Held as long as the instance is being changed.
#[derive(Debug)]
pub(super) struct InstanceLock(
    #[expect(dead_code, reason = "closing the file ends the turn")] FileLock,
);

/// A change that others may be made beside.
pub(super) async fn lock_shared(
    client: &Client,
    name: &Name,
) -> Result<Option<InstanceLock>, Failure> {
    take(client, name, LockMode::Shared).await
}

/// A change that no other may be made beside.
pub(super) async fn lock_exclusive(
    client: &Client,
    name: &Name,
) -> Result<Option<InstanceLock>, Failure> {
    take(client, name, LockMode::Exclusive).await
}

/// `None` where no lock can be had: the change is made all the same.
async fn take(
    client: &Client,
    name: &Name,
    share: LockMode,
) -> Result<Option<InstanceLock>, Failure> {
    let attempt = async {
        let path = file_lock::lock_dir()?.join(file(client, name));
        let waiting = || tracing::info!(%name, "waiting for another command");
        FileLock::acquire(&path, share, waiting).await
    };
    match tokio::time::timeout(LIMIT, attempt).await {
        Ok(Ok(lock)) => Ok(Some(InstanceLock(lock))),
        Ok(Err(error)) => {
            tracing::warn!(%name, %error, "changes are not kept apart");
            Ok(None)
        }
        Err(_) => Err(Failure::TimedOut {
            doing: "waiting for another command on the pixel".into(),
            after: LIMIT,
        }),
    }
}

fn file(client: &Client, name: &Name) -> String {
    let parts = [
        client.endpoint(),
        client.project().unwrap_or_default(),
        name.as_str(),
    ];
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    format!("pixel-{}.lock", fnv1a(bytes) % FILES)
}
