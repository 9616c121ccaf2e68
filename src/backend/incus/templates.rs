//! Removes templates of instances. At the start of an instance, the daemon
//! writes the templates of its image into the disk, as root of the server, and
//! releases of Incus before 6.0.6 follow symlinks that root in the instance
//! has created.

use reqwest::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::error::Failure;
use super::instances;
use super::operation::retry_while_busy;
use crate::model::Name;

/// Deletes the templates from the metadata of the instance, so that its copies
/// and snapshots have none. Succeeds if the instance does not exist.
pub(super) async fn remove(client: &Client, name: &Name) -> Result<(), Failure> {
    let path = format!("{}/metadata", instances::path(name));
    // The daemon mounts the disk of a stopped instance to access the metadata.
    retry_while_busy(|| async {
        let mut metadata: Value = match client.get(&path).await {
            Err(failure) if failure.is_not_found() => return Ok(()),
            metadata => metadata?,
        };
        let templates = metadata["templates"].as_object();
        if templates.is_none_or(serde_json::Map::is_empty) {
            return Ok(());
        }
        metadata["templates"] = json!({});
        client.send(Method::PUT, &path, &metadata).await
    })
    .await
}
