//! A copy of a pixel: a new instance whose disk becomes a clone of a snapshot.
//!
//! The API has no call for that (see `release`), so a command of root's does
//! it once: as a cron job that is never due, run by hand and removed in all
//! cases. Nothing inside either disk is touched from outside.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::Truenas;
use super::api_version::Cloning;
use super::convert::Found;
use super::error::Failure;
use super::instances::InstanceSpec;
use super::job::{self, JobCall};
use super::properties::{self, PropertyKey};
use super::rpc::Rpc;
use super::snapshots::check_dataset;
use super::wire::CronJob;
use crate::model::{
    Error, ForkSpec, InitScript, InvalidName, Label, Limits, Name, Result, Status, Subject,
};

const ZFS: &str = "/usr/sbin/zfs";
/// What the server takes.
const LONGEST: usize = 1024;
const CLONE: Duration = Duration::from_secs(5 * 60);
/// By it a job that was left behind is known; the time of its making follows.
const DESCRIPTION: &str = "pixels temporary job";
/// A job this old belongs to nobody any more.
const STALE: i64 = 60 * 60;

impl Truenas {
    pub(super) async fn fork(&self, spec: &ForkSpec) -> Result<InitScript> {
        self.needs_virt("a copy of a pixel").await?;
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        if release.table.cloning == Cloning::None {
            return Err(Error::Unsupported {
                operation: "a copy of a pixel".into(),
                reason: "this release of TrueNAS has no documented way".into(),
            });
        }
        if let Some(network) = &spec.network {
            self.attachable(network)?;
        }
        let from = &spec.from.pixel;
        let disk = self.disk(from).await?;
        let Found::Virt(source) = &disk.found else {
            return Err(Error::Protocol("the server changed its release".into()));
        };
        let (label, temporary) = match &spec.from.label {
            Some(label) => {
                disk.snapshot(from, label)?;
                (label.clone(), false)
            }
            None => {
                let label = Label::temporary(&self.rpc.id())
                    .map_err(|e: InvalidName| Error::Invalid(e.to_string().into()))?;
                self.snapshot(from, &label).await?;
                (label, true)
            }
        };
        let then = spec.from.label.as_ref().map(Label::as_str);
        let mut environment = properties::inherited(&source.environment, then)?;
        properties::merge(&mut environment, &spec.properties)?;
        self.note_birth(&mut environment, &spec.name, &spec.first_boot);
        let image = PropertyKey::Image
            .read_properties(&source.environment)
            .unwrap_or(&self.options.image)
            .to_owned();
        let limits = Limits {
            cpu: spec.limits.cpu.clone().or_else(|| source.cpu.clone()),
            memory: spec.limits.memory.or(source.memory),
        };
        let work = async {
            let instance = InstanceSpec {
                image: &image,
                limits: &limits,
                environment,
                device: self.device().await?,
            };
            self.create_instance(&spec.name, instance).await?;
            let made = self.find(&spec.name).await?;
            if made.status() != Status::Stopped {
                return Err(Error::WrongState {
                    subject: Subject::pixel(&spec.name),
                    state: "not stopped, so its disk cannot be exchanged".into(),
                });
            }
            let target = self.dataset(&made).await?;
            let command = command(&disk.dataset, &label, &target)?;
            self.exchange(&spec.name, command).await
        };
        let outcome = work.await;
        if temporary {
            // Marked now, it goes with the last clone of it.
            match self.remove_snapshot(from, &label).await {
                Err(error) if !error.is_not_found() => tracing::debug!(%error, "snapshot"),
                _ => {}
            }
        }
        outcome.map(|()| InitScript::Applied)
    }

    /// Has root on the server run the command.
    async fn exchange(&self, name: &Name, command: String) -> Result<()> {
        self.sweep().await;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let entry = json!([{
            "command": command,
            "user": "root",
            // Never by the clock.
            "enabled": false,
            // Output would be mailed, and the mail waited for.
            "stdout": true,
            "stderr": true,
            "description": format!("{DESCRIPTION} {now}"),
            "schedule": {"minute": "00", "hour": "00", "dom": "1", "month": "1", "dow": "1"},
        }]);
        let about = |failure: Failure| failure.into_error_for(Subject::pixel(name));
        let wanted = entry[0]["command"].clone();
        let guard = match self.schedule(entry).await {
            Ok(guard) => guard,
            Err(failure) => {
                // It may have been made all the same: known by its command.
                self.remove_cron_of(&wanted).await;
                return Err(about(failure));
            }
        };
        // Whoever undoes this waits for it.
        self.exchanges().insert(name.clone(), guard.id);
        let task = JobCall {
            method: "cronjob.run",
            params: json!([guard.id, false]),
            doing: "cloning the disk",
            limit: CLONE,
        };
        let outcome = job::run(&self.rpc, &task).await.map(drop);
        self.exchanges().remove(name);
        guard.remove().await;
        outcome.map_err(|failure| match failure {
            Failure::Refused(_) => Error::Server {
                code: 0,
                message: "the clone of the disk failed; it is root's zfs command on the server \
                          that did, see its jobs there"
                    .into(),
            },
            other => about(other),
        })
    }

    /// Makes the job. Should its caller give up meanwhile, it is removed again.
    async fn schedule(&self, entry: Value) -> Result<Guard, Failure> {
        let (tell, made) = oneshot::channel();
        let (rpc, tasks) = (Arc::clone(&self.rpc), self.tasks.clone());
        self.tasks.spawn(async move {
            let made: Result<CronJob, _> = rpc.write("cronjob.create", entry).await;
            let guard = made.map(|job| Guard {
                rpc,
                tasks,
                id: job.id,
                armed: true,
            });
            // What nobody takes is dropped, and so removed.
            let _ = tell.send(guard);
        });
        made.await
            .unwrap_or_else(|_| Err(Failure::Protocol("the task ended early".into())))
    }

    fn exchanges(&self) -> MutexGuard<'_, HashMap<Name, i64>> {
        self.exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The job that exchanges the disk of an instance.
    pub(super) fn exchange_of(&self, name: &Name) -> Option<i64> {
        self.exchanges().get(name).copied()
    }

    async fn remove_cron_of(&self, command: &Value) {
        let params = json!([[["command", "=", command]]]);
        let found: Result<Vec<CronJob>, _> = self.rpc.read("cronjob.query", params).await;
        for job in found.unwrap_or_default() {
            remove_cron(&self.rpc, job.id).await;
        }
    }

    /// Removes what killed commands left. Best effort.
    async fn sweep(&self) {
        let params = json!([[["description", "^", DESCRIPTION]]]);
        let found: Result<Vec<CronJob>, _> = self.rpc.read("cronjob.query", params).await;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        for job in found.unwrap_or_default() {
            let made = job.description.rsplit(' ').next();
            let made = made.and_then(|time| time.parse::<i64>().ok()).unwrap_or(0);
            if now - made > STALE {
                remove_cron(&self.rpc, job.id).await;
            }
        }
    }
}

/// Once more where nothing was heard: a job that is gone counts as removed.
async fn remove_cron(rpc: &Rpc, id: i64) {
    for _ in 0..3 {
        match rpc.write::<Value>("cronjob.delete", json!([id])).await {
            Err(failure) if failure.is_uncertain() => {}
            Err(failure) if !failure.is_not_found() => {
                tracing::debug!(%failure, "cron job");
                return;
            }
            _ => return,
        }
    }
}

/// Removes the job also when its command was interrupted.
struct Guard {
    rpc: Arc<Rpc>,
    tasks: TaskTracker,
    id: i64,
    armed: bool,
}

impl Guard {
    async fn remove(mut self) {
        remove_cron(&self.rpc, self.id).await;
        self.armed = false;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            let (rpc, id) = (Arc::clone(&self.rpc), self.id);
            self.tasks.spawn(async move { remove_cron(&rpc, id).await });
        }
    }
}

/// Exchanges a stopped instance's disk for a clone. The clone is there before
/// the old disk goes, so that a failure leaves an instance with a disk.
fn command(source: &str, label: &Label, target: &str) -> Result<String> {
    check_dataset(source)?;
    check_dataset(target)?;
    let new = format!("{target}.pixels");
    let command = format!(
        "{ZFS} clone -o canmount=noauto -o mountpoint=legacy {source}@{label} {new} && \
         {ZFS} destroy -r {target} && {ZFS} rename {new} {target} || \
         {{ {ZFS} destroy {new}; false; }}"
    );
    if command.len() > LONGEST {
        return Err(Error::Invalid(format!(
            "the names of the datasets {source:?} and {target:?} are too long to clone one from \
             the other"
        ).into()));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_made_of_checked_names_alone() {
        let label: Label = "ready".parse().unwrap();
        let text = command("tank/.ix-virt/containers/px-a", &label, "tank/c/px-b").unwrap();
        assert!(text.contains("tank/.ix-virt/containers/px-a@ready tank/c/px-b.pixels &&"));
        assert!(!text.contains('\n') && text.len() <= LONGEST);
        for bad in ["tank/a;reboot", "tank/$(x)", "tank/a b", "-r/a"] {
            assert!(command(bad, &label, "tank/b").is_err(), "{bad}");
            assert!(command("tank/a", &label, bad).is_err(), "{bad}");
        }
        let long = format!("tank/{}", "a".repeat(250));
        assert!(command(&long, &label, &long).is_err());
    }
}
