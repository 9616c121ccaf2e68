//! Clones a pixel: creates an instance and replaces the instance's disk with a
//! clone of a snapshot.
//!
//! The API does not support cloning containers: the method that clones a
//! snapshot also mounts the clone, which fails for container disks, and no
//! method assigns a clone to a container. Root on the server therefore runs one
//! `zfs` command, in a disabled cron job that is run once and then deleted.
//! pixels does not change the contents of disks from outside.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::Truenas;
use super::convert::Container;
use super::error::Failure;
use super::instances::{InstanceSpec, upgraded};
use super::job::{self, JobCall};
use super::properties::{self, PropertyKey};
use super::rpc::Rpc;
use super::snapshots::check_dataset;
use super::wire::CronJob;
use crate::model::{
    Error, ForkSpec, InitScript, InvalidName, Label, Limits, Name, Result, Status, Subject,
};

const ZFS: &str = "/usr/sbin/zfs";
/// The server's limit for the length of a command, in bytes.
const MAX_COMMAND: usize = 1024;
const CLONE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Prefix of the cron jobs' descriptions, followed by the Unix time of creation.
const DESCRIPTION: &str = "pixels temporary job";
/// Age in seconds after which a cron job is a leftover of an interrupted command.
const MAX_AGE_SECONDS: i64 = 60 * 60;

impl Truenas {
    pub(super) async fn fork(&self, spec: &ForkSpec) -> Result<InitScript> {
        self.needs_virt("cloning a pixel").await?;
        if let Some(network) = &spec.network {
            self.check_attachment(network)?;
        }
        let from = &spec.from.pixel;
        let disk = self.disk(from).await?;
        let Container::Virt(source) = &disk.container else {
            return Err(upgraded());
        };
        let (label, temporary) = match &spec.from.label {
            Some(label) => {
                disk.snapshot(from, label)?;
                (label.clone(), false)
            }
            None => {
                let label = Label::temporary(&self.rpc.id())
                    .map_err(|e: InvalidName| Error::Invalid(e.to_string().into()))?;
                self.create_snapshot(from, &label).await?;
                (label, true)
            }
        };
        let checkpoint = spec.from.label.as_ref().map(Label::as_str);
        let mut environment = properties::inherited(&source.environment, checkpoint)?;
        properties::merge(&mut environment, &spec.properties)?;
        self.record_first_boot(&mut environment, &spec.name, &spec.first_boot);
        let image = PropertyKey::Image
            .get(&source.environment)
            .unwrap_or(&self.placement.image)
            .to_owned();
        let limits = Limits {
            cpu: spec.limits.cpu.clone().or_else(|| source.cpu.clone()),
            memory: spec.limits.memory.or(source.memory),
            disk: spec.limits.disk,
        };
        let work = async {
            let instance = InstanceSpec {
                image: &image,
                limits: &limits,
                environment,
                device: self.device().await?,
            };
            self.create_instance(&spec.name, instance).await?;
            let created = self.find(&spec.name).await?;
            if created.status() != Status::Stopped {
                return Err(Error::WrongState {
                    subject: Subject::pixel(&spec.name),
                    state: "not stopped, so its disk cannot be replaced".into(),
                });
            }
            let target = self.dataset(&created).await?;
            let command = clone_command(&disk.dataset, &label, &target)?;
            self.replace_disk(&spec.name, command).await
        };
        let outcome = work.await;
        if temporary {
            // Deferred: ZFS destroys the snapshot after its last clone is destroyed.
            match self.delete_snapshot(from, &label).await {
                Err(error) if !error.is_not_found() => {
                    tracing::debug!(%error, "could not delete the temporary snapshot")
                }
                _ => {}
            }
        }
        outcome.map(|()| InitScript::Applied)
    }

    /// Runs the command as root on the server.
    async fn replace_disk(&self, name: &Name, command: String) -> Result<()> {
        self.remove_stale_jobs().await;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let entry = json!([{
            "command": command,
            "user": "root",
            // A disabled cron job does not run on a schedule.
            "enabled": false,
            // `true` discards the output. Otherwise the server mails the output and waits
            // for the mail.
            "stdout": true,
            "stderr": true,
            "description": format!("{DESCRIPTION} {now}"),
            "schedule": {"minute": "00", "hour": "00", "dom": "1", "month": "1", "dow": "1"},
        }]);
        let error = |failure: Failure| failure.into_error_for(Subject::pixel(name));
        let command = entry[0]["command"].clone();
        let guard = match self.create_job(entry).await {
            Ok(guard) => guard,
            Err(failure) => {
                // The server may have created the job, so find the job by its command.
                self.remove_jobs_with(&command).await;
                return Err(error(failure));
            }
        };
        // `wait_idle` waits for this job.
        self.clone_jobs().insert(name.clone(), guard.id);
        let call = JobCall {
            method: "cronjob.run",
            params: json!([guard.id, false]),
            doing: "cloning the disk",
            limit: CLONE_TIMEOUT,
        };
        let outcome = job::run(&self.rpc, &call).await.map(drop);
        self.clone_jobs().remove(name);
        guard.remove().await;
        outcome.map_err(|failure| match failure {
            Failure::Refused(_) => Error::Server {
                code: 0,
                message: "the zfs command that clones the disk failed on the server; see its job \
                          log"
                .into(),
            },
            other => error(other),
        })
    }

    /// Creates the cron job. Deletes the job if the caller is dropped before the
    /// response.
    async fn create_job(&self, entry: Value) -> Result<JobGuard, Failure> {
        let (sender, receiver) = oneshot::channel();
        let (rpc, tasks) = (Arc::clone(&self.rpc), self.tasks.clone());
        self.tasks.spawn(async move {
            let created: Result<CronJob, _> = rpc.write("cronjob.create", entry).await;
            let guard = created.map(|job| JobGuard {
                rpc,
                tasks,
                id: job.id,
                armed: true,
            });
            // Without a receiver, dropping the guard deletes the job.
            let _ = sender.send(guard);
        });
        receiver.await.unwrap_or_else(|_| {
            Err(Error::Protocol("the task ended without a result".into()).into())
        })
    }

    /// Returns the cron jobs that replace disks of pixels.
    pub(super) fn clone_jobs(&self) -> MutexGuard<'_, HashMap<Name, i64>> {
        self.clone_jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn remove_jobs_with(&self, command: &Value) {
        for job in self.jobs(json!([["command", "=", command]])).await {
            remove_job(&self.rpc, job.id).await;
        }
    }

    /// Deletes leftover cron jobs of interrupted commands. Ignores failures.
    async fn remove_stale_jobs(&self) {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        for job in self.jobs(json!([["description", "^", DESCRIPTION]])).await {
            let time = job.description.rsplit(' ').next();
            let created_at = time.and_then(|time| time.parse::<i64>().ok()).unwrap_or(0);
            if now - created_at > MAX_AGE_SECONDS {
                remove_job(&self.rpc, job.id).await;
            }
        }
    }

    async fn jobs(&self, filter: Value) -> Vec<CronJob> {
        let jobs = self.rpc.read("cronjob.query", json!([filter])).await;
        jobs.unwrap_or_default()
    }
}

/// Deletes a cron job. Retries if the result is unknown. Ignores a missing job.
async fn remove_job(rpc: &Rpc, id: i64) {
    for _ in 0..3 {
        match rpc.write::<Value>("cronjob.delete", json!([id])).await {
            Err(failure) if failure.is_uncertain() => {}
            Err(failure) if !failure.is_not_found() => {
                tracing::debug!(%failure, "could not delete the cron job");
                return;
            }
            _ => return,
        }
    }
}

/// Deletes the cron job on drop.
struct JobGuard {
    rpc: Arc<Rpc>,
    tasks: TaskTracker,
    id: i64,
    armed: bool,
}

impl JobGuard {
    async fn remove(mut self) {
        remove_job(&self.rpc, self.id).await;
        self.armed = false;
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        if self.armed {
            let (rpc, id) = (Arc::clone(&self.rpc), self.id);
            self.tasks.spawn(async move { remove_job(&rpc, id).await });
        }
    }
}

/// Returns the command that replaces a stopped instance's disk with a clone.
/// Creates the clone before destroying the old disk, so that the instance has a
/// disk even after a failure.
fn clone_command(source: &str, label: &Label, target: &str) -> Result<String> {
    check_dataset(source)?;
    check_dataset(target)?;
    let new = format!("{target}.pixels");
    let command = format!(
        "{ZFS} clone -o canmount=noauto -o mountpoint=legacy {source}@{label} {new} && \
         {ZFS} destroy -r {target} && {ZFS} rename {new} {target} || \
         {{ {ZFS} destroy {new}; false; }}"
    );
    if command.len() > MAX_COMMAND {
        let text = format!("cannot clone {source:?} to {target:?}: the dataset names are too long");
        return Err(Error::Invalid(text.into()));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_rejects_invalid_dataset_names() {
        let label: Label = "ready".parse().unwrap();
        let text = clone_command("tank/.ix-virt/containers/px-a", &label, "tank/c/px-b").unwrap();
        assert!(text.contains("tank/.ix-virt/containers/px-a@ready tank/c/px-b.pixels &&"));
        assert!(!text.contains('\n') && text.len() <= MAX_COMMAND);
        for bad in ["tank/a;reboot", "tank/$(x)", "tank/a b", "-r/a"] {
            assert!(clone_command(bad, &label, "tank/b").is_err(), "{bad}");
            assert!(clone_command("tank/a", &label, bad).is_err(), "{bad}");
        }
        let long = format!("tank/{}", "a".repeat(250));
        assert!(clone_command(&long, &label, &long).is_err());
    }
}
