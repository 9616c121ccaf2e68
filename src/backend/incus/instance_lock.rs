//! Locks of instances among the commands of a user on this machine.
//!
//! While Incus 6 restores a snapshot it moves the instance's disk away, and
//! still allows other requests to mount the instance. On btrfs such a mount
//! creates an empty directory where the disk was, the restored disk is moved
//! into that directory, and the instance can neither be started nor deleted.
//! So a restore takes the lock exclusively, and all other changes share it.

use std::time::Duration;

use super::client::Client;
use crate::file_lock::{self, FileLock, LockMode};
use crate::model::{Error, Name, Result, fnv1a};

/// How long a lock is waited for: the deadline of a restore.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Number of lock files. Instances with the same file wait for each other's
/// restores.
const FILES: u32 = 64;

/// Takes the lock: [`LockMode::Exclusive`] for a change that must not overlap with
/// any other. `None` if locks are not available here; then the change is made
/// without.
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
