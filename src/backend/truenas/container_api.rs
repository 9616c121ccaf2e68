//! The part of `container.*` (TrueNAS 26 and later) that differs from `virt.*`.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::Failure;
use super::job::{self, JobCall};
use super::rpc::Rpc;
use super::wire::{Lxc, Snapshot};

const STOP: Duration = Duration::from_secs(6 * 60);
const DELETE: Duration = Duration::from_secs(120);

/// Not a job.
pub(super) async fn start(rpc: &Rpc, container: &Lxc) -> Result<(), Failure> {
    rpc.write::<Value>("container.start", json!([container.id]))
        .await
        .map(drop)
}

pub(super) async fn stop(rpc: &Rpc, container: &Lxc, force: bool) -> Result<(), Failure> {
    let how = match force {
        true => json!({"force": true}),
        false => json!({"force_after_timeout": true}),
    };
    let task = JobCall {
        method: "container.stop",
        params: json!([container.id, how]),
        doing: "stopping the pixel",
        limit: STOP,
    };
    job::run(rpc, &task).await.map(drop)
}

/// Never with `recursive`, which takes every clone of its snapshots along: its
/// own snapshots go one by one, and one that others were cloned from stays.
pub(super) async fn delete(rpc: &Rpc, container: &Lxc) -> Result<(), Failure> {
    let of_it = json!([[["dataset", "=", container.dataset]]]);
    let snapshots: Vec<Snapshot> = rpc.read("pool.snapshot.query", of_it).await?;
    for snapshot in snapshots {
        let params = json!([snapshot.id, {"defer": false, "recursive": false}]);
        rpc.write::<Value>("pool.snapshot.delete", params).await?;
    }
    let task = JobCall {
        method: "container.delete",
        params: json!([container.id, {"force": true, "recursive": false}]),
        doing: "deleting the pixel",
        limit: DELETE,
    };
    match job::run(rpc, &task).await {
        // Early releases of 26 take no options, and it is no job.
        Err(Failure::Refused(fault)) if fault.is_about("") => rpc
            .write::<Value>("container.delete", json!([container.id]))
            .await
            .map(drop),
        outcome => outcome.map(drop),
    }
}
