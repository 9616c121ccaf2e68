//! Starts, stops and deletes instances. After a failure or an unknown result, a
//! change succeeds if the instance is in the intended state.

use std::time::Duration;

use serde_json::{Value, json};

use super::Truenas;
use super::convert::Container;
use super::error::Failure;
use super::job::{self, JobCall};
use super::messages::Meaning;
use super::properties::PropertyKey;
use super::wire::{Lxc, Snapshot};
use crate::model::{Error, Name, Result, Status, Subject};
use crate::retry::{self, Next};

const STATE_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout of a stop whose grace period is chosen by the server.
const LXC_STOP_TIMEOUT: Duration = Duration::from_secs(6 * 60);
/// Maximum grace period. The server's own timeout of a stop is five minutes.
const MAX_GRACE: Duration = Duration::from_secs(240);
/// How long to retry while a disk is busy after a stop.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

impl Truenas {
    pub(super) async fn run_state(
        &self,
        name: &Name,
        method: &'static str,
        params: Value,
        doing: &str,
        limit: Duration,
    ) -> Result<(), Failure> {
        let call = JobCall {
            method,
            params,
            doing,
            limit,
        };
        let outcome = job::run(&self.rpc, &call).await.map(drop);
        self.ssh.close_session(&name.instance()).await;
        outcome
    }

    /// Starts the instance without the bootstrap.
    pub(super) async fn start(&self, name: &Name) -> Result<()> {
        let found = self.find(name).await?;
        if found.status() == Status::Running {
            return Ok(());
        }
        let outcome = match &found {
            Container::Virt(_) => {
                let params = json!([name.instance()]);
                let doing = "starting the pixel";
                self.run_state(name, "virt.instance.start", params, doing, STATE_TIMEOUT)
                    .await
            }
            Container::Lxc(lxc) => {
                // The method is not a job.
                let params = json!([lxc.id]);
                let started = self.rpc.write::<Value>("container.start", params).await;
                started.map(drop)
            }
        };
        self.ok_if_in_state(name, outcome, Status::Running).await
    }

    pub(super) async fn stop(&self, name: &Name, grace: Duration) -> Result<()> {
        let found = self.find(name).await?;
        if found.status() == Status::Stopped {
            return Ok(());
        }
        let grace = grace.min(MAX_GRACE);
        let stop = async |method, params, limit| {
            let doing = "stopping the pixel";
            self.run_state(name, method, params, doing, limit).await
        };
        let outcome = match &found {
            Container::Virt(_) => {
                let stop = async |options: Value, limit| {
                    let params = json!([name.instance(), options]);
                    stop("virt.instance.stop", params, limit).await
                };
                let force = json!({"force": true});
                if grace.is_zero() {
                    stop(force, STATE_TIMEOUT).await
                } else {
                    let graceful = json!({"timeout": grace.as_secs(), "force": false});
                    match stop(graceful, grace + STATE_TIMEOUT).await {
                        Err(Failure::Refused(fault)) => {
                            tracing::debug!(%fault, "graceful stop failed, forcing");
                            stop(force, STATE_TIMEOUT).await
                        }
                        other => other,
                    }
                }
            }
            Container::Lxc(lxc) => {
                let options = match grace.is_zero() {
                    true => json!({"force": true}),
                    false => json!({"force_after_timeout": true}),
                };
                let params = json!([lxc.id, options]);
                stop("container.stop", params, LXC_STOP_TIMEOUT).await
            }
        };
        self.ok_if_in_state(name, outcome, Status::Stopped).await
    }

    /// Ignores a failure or unknown result of a change if the instance is in the
    /// intended state.
    async fn ok_if_in_state(
        &self,
        name: &Name,
        outcome: Result<(), Failure>,
        target: Status,
    ) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_uncertain() || matches!(failure, Failure::Refused(_)) => {
                match self.find(name).await {
                    Ok(found) if found.status() == target => Ok(()),
                    Err(error) if error.is_not_found() => Err(error),
                    _ => Err(failure.into_error_for(Subject::pixel(name))),
                }
            }
            Err(failure) => Err(failure.into_error_for(Subject::pixel(name))),
        }
    }

    pub(super) async fn destroy(&self, name: &Name) -> Result<()> {
        let id = match self.find(name).await? {
            Container::Virt(virt) => PropertyKey::Id.get(&virt.environment).map(str::to_owned),
            Container::Lxc(lxc) => {
                self.stop(name, Duration::ZERO).await?;
                let deleted = self.delete_lxc(name, &lxc).await;
                return deleted.map_err(|failure| failure.into_error_for(Subject::pixel(name)));
            }
        };
        retry::until(BUSY_TIMEOUT, || async {
            if let Err(error) = self.stop(name, Duration::ZERO).await {
                return Next::Done(self.ok_if_gone(name, error).await);
            }
            let params = json!([name.instance()]);
            let method = "virt.instance.delete";
            let doing = "deleting the pixel";
            match self
                .run_state(name, method, params, doing, STATE_TIMEOUT)
                .await
            {
                Ok(()) => Next::Done(Ok(())),
                Err(failure @ Failure::Refused(_)) if !failure.is_not_found() => {
                    Next::Again(failure)
                }
                Err(failure) => {
                    let error = failure.into_error_for(Subject::pixel(name));
                    Next::Done(self.ok_if_gone(name, error).await)
                }
            }
        })
        .await
        .unwrap_or_else(|failure| Err(failure.into_error_for(Subject::pixel(name))))?;
        if let Some(id) = id {
            self.ssh.remove_host_keys(&name.instance(), &id);
        }
        Ok(())
    }

    /// Deletes the container's snapshots one by one, then the container. Does not
    /// use `recursive`, which would also delete all clones of the snapshots. Fails
    /// if a snapshot has clones.
    async fn delete_lxc(&self, name: &Name, container: &Lxc) -> Result<(), Failure> {
        let filter = json!([[["dataset", "=", container.dataset]]]);
        let snapshots: Vec<Snapshot> = self.rpc.read("pool.snapshot.query", filter).await?;
        for snapshot in snapshots {
            let params = json!([snapshot.id, {"defer": false, "recursive": false}]);
            let method = "pool.snapshot.delete";
            self.rpc.write::<Value>(method, params).await?;
        }
        let (method, doing) = ("container.delete", "deleting the pixel");
        let params = json!([container.id, {"force": true, "recursive": false}]);
        let deleted = self.run_state(name, method, params, doing, STATE_TIMEOUT);
        match deleted.await {
            // In the 26.0 betas, the method is not a job and accepts no options.
            Err(Failure::Refused(fault)) if fault.means(Meaning::NoOptions) => {
                let params = json!([container.id]);
                self.rpc.write::<Value>(method, params).await.map(drop)
            }
            outcome => outcome,
        }
    }

    /// Succeeds if the pixel no longer exists. Otherwise fails with `error`.
    async fn ok_if_gone(&self, name: &Name, error: Error) -> Result<()> {
        match self.find(name).await {
            Err(missing) if missing.is_not_found() => Ok(()),
            _ => Err(error),
        }
    }
}
