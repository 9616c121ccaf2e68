//! Locks instances against other commands of the same user on this machine.
//!
//! While Incus 6 restores a snapshot, it moves the instance's disk away, but still
//! allows requests that mount the instance. On btrfs such a mount creates an empty
//! directory at the disk's path, and the restored disk is moved into that directory.
//! The instance can then neither start nor be deleted. A restore therefore takes an
//! exclusive lock, and all other changes take a shared lock.

use std::time::Duration;

use super::client::Client;
use crate::file_lock::{self, FileLock, LockMode};
use crate::model::{Error, Name, Result, fnv1a};

/// How long to wait for the lock: the deadline of a restore.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Number of lock files. Instances with the same lock file wait for each
/// other's restores.
const FILES: u32 = 64;

/// Locks the instance. A change that must not overlap with other changes needs
/// [`LockMode::Exclusive`]. Returns `None` if locks are not available here; the
/// caller then continues without a lock.
pub(super) async fn lock(client: &Client, name: &Name, mode: LockMode) -> Result<Option<FileLock>> {
    let attempt = async {
        let path = file_lock::lock_dir()?.join(file_name(client, name));
        let waiting = || tracing::info!(%name, "waiting for another command");
        FileLock::acquire(&path, mode, waiting).await
    };
    match tokio::time::timeout(TIMEOUT, attempt).await {
        Ok(Ok(lock)) => Ok(Some(lock)),
        Ok(Err(error)) => {
            tracing::warn!(%name, %error, "cannot lock the instance");
            Ok(None)
        }
        Err(_) => Err(Error::TimedOut {
            doing: "waiting for another command on the pixel".into(),
            after: TIMEOUT,
        }),
    }
}

fn file_name(client: &Client, name: &Name) -> String {
    let parts = [
        client.endpoint(),
        client.project().unwrap_or_default(),
        name.as_str(),
    ];
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    format!("pixel-{}.lock", fnv1a(bytes) % FILES)
}
