//! The methods of `container.*` (TrueNAS 26 and later) that differ from `virt.*`.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::Failure;
use super::job::{self, JobCall};
use super::messages::Meaning;
use super::rpc::Rpc;
use super::wire::{Lxc, Snapshot};

const STOP_TIMEOUT: Duration = Duration::from_secs(6 * 60);
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);

/// `container.start` is not a job.
pub(super) async fn start(rpc: &Rpc, container: &Lxc) -> Result<(), Failure> {
    rpc.write::<Value>("container.start", json!([container.id]))
        .await
        .map(drop)
}

pub(super) async fn stop(rpc: &Rpc, container: &Lxc, force: bool) -> Result<(), Failure> {
    let options = match force {
        true => json!({"force": true}),
        false => json!({"force_after_timeout": true}),
    };
    let call = JobCall {
        method: "container.stop",
        params: json!([container.id, options]),
        doing: "stopping the pixel",
        limit: STOP_TIMEOUT,
    };
    job::run(rpc, &call).await.map(drop)
}

/// Deletes the container's snapshots one by one, then the container. Never uses
/// `recursive`, which would also delete all clones of the snapshots. Fails if a
/// snapshot has clones.
pub(super) async fn delete(rpc: &Rpc, container: &Lxc) -> Result<(), Failure> {
    let filter = json!([[["dataset", "=", container.dataset]]]);
    let snapshots: Vec<Snapshot> = rpc.read("pool.snapshot.query", filter).await?;
    for snapshot in snapshots {
        let params = json!([snapshot.id, {"defer": false, "recursive": false}]);
        rpc.write::<Value>("pool.snapshot.delete", params).await?;
    }
    let call = JobCall {
        method: "container.delete",
        params: json!([container.id, {"force": true, "recursive": false}]),
        doing: "deleting the pixel",
        limit: DELETE_TIMEOUT,
    };
    match job::run(rpc, &call).await {
        // In the 26.0 betas the method is not a job and accepts no options.
        Err(Failure::Refused(fault)) if fault.means(Meaning::NoOptions) => rpc
            .write::<Value>("container.delete", json!([container.id]))
            .await
            .map(drop),
        outcome => outcome.map(drop),
    }
}
