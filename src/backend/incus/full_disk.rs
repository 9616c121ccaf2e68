//! Changes of an instance whose disk has reached its limit. The daemon writes a
//! file to the disk at every start and at every change of the configuration, so
//! that root in the instance could prevent changes by filling the disk.

use reqwest::Method;
use serde_json::json;

use super::client::Client;
use super::devices::SIZE;
use super::error::Failure;
use super::instances;
use super::messages::Meaning;
use super::wire::Instance;
use crate::model::Name;

/// Disk space in bytes for the daemon's files.
const HEADROOM: u64 = 64 * 1024 * 1024;

/// Runs a change. If the disk is full, raises its limit and runs the change
/// once more.
pub(super) async fn retry_if_full<F>(
    client: &Client,
    name: &Name,
    change: impl Fn() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let outcome = change().await;
    if let Err(failure) = &outcome
        && failure.meaning() == Some(Meaning::DiskFull)
        && raise_limit(client, name).await?
    {
        return change().await;
    }
    outcome
}

/// Returns false if the disk has no limit.
async fn raise_limit(client: &Client, name: &Name) -> Result<bool, Failure> {
    let path = instances::path(name);
    let mut found: Instance = client.get(&path).await?;
    let Some(mut root) = found.expanded_devices.remove("root") else {
        return Ok(false);
    };
    let Some(bytes) = root.get(SIZE).and_then(|size| size.parse::<u64>().ok()) else {
        return Ok(false);
    };
    let raised = bytes.saturating_add(HEADROOM);
    tracing::info!(%name, bytes, raised, "the disk is full, raising its limit");
    root.insert(SIZE.into(), raised.to_string());
    let body = json!({"devices": {"root": root}});
    client.send(Method::PATCH, &path, &body).await?;
    Ok(true)
}
