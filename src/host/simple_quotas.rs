//! Simple quotas of btrfs, with which disk limits of pixels cost no time.

use std::path::Path;

use reqwest::Method;
use serde_json::json;

use super::command::{self, CommandLine};
use super::error::Error;
use crate::backend::incus::{Client, SIMPLE_QUOTAS};

/// Enables simple quotas on a new pool of the local daemon and records them in
/// the pool's configuration. Leaves the pool unchanged if Linux or btrfs-progs
/// are older than 6.7.
pub(super) async fn enable(client: &Client, incus_dir: &Path, pool: &str) -> Result<(), Error> {
    let path = incus_dir.join("storage-pools").join(pool);
    let path = path.display().to_string();
    let command = CommandLine::new("btrfs", ["quota", "enable", "--simple", &path]);
    let enabled = command::run_checked("enable simple quotas", &command, &mut |_| {}).await;
    if let Err(error) = enabled {
        tracing::debug!(%error, "the pool has no simple quotas");
        return Ok(());
    }
    let body = json!({"config": {SIMPLE_QUOTAS: "true"}});
    let path = format!("/1.0/storage-pools/{pool}");
    client
        .send(Method::PATCH, &path, &body)
        .await
        .map_err(|error| Error::server("cannot record the pool's quotas", error))
}
