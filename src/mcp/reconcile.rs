//! The records and the server, brought together: at the start what an earlier
//! process left, later what others did to our pixels; and what is due to be
//! stopped or destroyed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::Result;
use super::reaper::{self, Action};
use super::service::{Service, parse};
use super::state::{Record, Status};
use crate::model::{self, ExecRequest, Instance};

impl Service {
    /// Goes on where an earlier process was killed: what runs is adopted, what
    /// was half made is finished, what was to be removed is removed.
    /// `inherited`: the sandboxes on record when this process began.
    pub async fn recover(self: &Arc<Self>, inherited: &[Record]) -> Result<()> {
        let before = self.store.all();
        let instances = self.backend.list().await?;
        for instance in &instances {
            if !self.owns(instance) || self.store.get(instance.name.as_str()).is_some() {
                continue;
            }
            if let Some(mut record) = self.recorded_on(instance) {
                tracing::info!(sandbox = record.name, "adopted: it was on no record");
                record.status = Status::Provisioning;
                record.last_activity_at = (self.clock)();
                let name = record.name.clone();
                if self.store.add(record, None) {
                    self.spawn_create(name, true);
                }
            }
        }
        for record in inherited {
            if record.doomed {
                self.spawn_destroying(record.name.clone());
            } else if record.status == Status::Provisioning {
                self.spawn_create(record.name.clone(), true);
            }
        }
        self.merge_server_state(&before, &instances);
        self.save().await;
        let service = self.clone();
        self.tasks.spawn(async move {
            let stop = service.stopping().clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = service.base_builder.sweep(&*service.backend) => {}
            }
        });
        Ok(())
    }

    /// Takes over what the server says of the sandboxes nobody works on.
    pub(super) async fn reconcile(&self) -> Result<()> {
        let before = self.store.all();
        let instances = self.backend.list().await?;
        self.merge_server_state(&before, &instances);
        self.save().await;
        Ok(())
    }

    /// `before`: the records from before the server was asked. What changed
    /// meanwhile the answer knows nothing of.
    fn merge_server_state(&self, before: &[Record], instances: &[Instance]) {
        let there: BTreeMap<&str, &Instance> = instances
            .iter()
            .map(|instance| (instance.name.as_str(), instance))
            .collect();
        for old in before {
            let Some(record) = self.store.get(&old.name) else {
                continue;
            };
            let same = record.status == old.status && !record.doomed;
            if !same || record.status == Status::Provisioning {
                continue;
            }
            // A call that changes it says itself what became of it.
            let slot = self.locks.get(&record.name);
            if slot.is_changing() {
                continue;
            }
            match there.get(record.name.as_str()) {
                Some(instance) => {
                    self.note_facts(instance);
                    self.update(&record.name, |record| apply_status(record, instance));
                }
                None if record.status == Status::Failed => {}
                None => self.update(&record.name, |record| {
                    record.status = Status::Failed;
                    record.ip = None;
                    record.error = Some(
                        "it is no longer on the server: somebody removed it by other means; \
                         destroy_sandbox takes it off the list"
                            .to_owned(),
                    );
                }),
            }
        }
    }

    fn spawn_destroying(self: &Arc<Self>, name: String) {
        let service = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = service.destroy(&name).await {
                tracing::warn!(sandbox = name, %error, "destroying");
            }
        });
    }

    /// Stops and destroys what is due.
    pub(super) async fn reap(self: &Arc<Self>) {
        let now = (self.clock)();
        for record in self.store.all() {
            if record.doomed {
                continue;
            }
            match reaper::decide(now, &record, &self.options.limits) {
                None => {}
                Some(Action::Destroy) => {
                    tracing::info!(sandbox = record.name, "its time is over");
                    self.store
                        .update(&record.name, |record| record.doomed = true);
                    self.spawn_destroying(record.name);
                }
                Some(Action::Stop) => {
                    let service = self.clone();
                    self.tasks.spawn(async move {
                        if let Err(error) = service.stop_idle(&record.name).await {
                            tracing::warn!(sandbox = record.name, %error, "stopping");
                        }
                    });
                }
            }
        }
        self.save().await;
    }

    async fn stop_idle(&self, name: &str) -> Result<()> {
        let slot = self.locks.get(name);
        let Some(_alone) = slot.try_write() else {
            return Ok(());
        };
        // It may have been used since it was looked at.
        let due = |record: &Record| {
            reaper::decide((self.clock)(), record, &self.options.limits) == Some(Action::Stop)
        };
        if !self.store.get(name).is_some_and(|record| due(&record)) {
            return Ok(());
        }
        if self.has_jobs(name).await? {
            self.touch(name);
            return Ok(());
        }
        tracing::info!(sandbox = name, "idle: stopping");
        self.stop_pixel(name).await
    }

    /// Whether a long job runs in it.
    async fn has_jobs(&self, name: &str) -> Result<bool> {
        let pixel = parse(name)?;
        let script = "grep -qsz '^PIXELS_EXEC_ID=job-' /proc/[0-9]*/environ";
        let request = ExecRequest::root(["/bin/sh", "-c", script]);
        match self.backend.guest(&pixel).output(&request).await {
            Ok(output) => Ok(output.status.success()),
            // Stopped by somebody else meanwhile, or gone.
            Err(model::Error::WrongState { .. } | model::Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn save(&self) {
        if let Err(error) = self.store.save().await {
            tracing::error!(%error, "saving the state");
        }
    }
}

fn apply_status(record: &mut Record, instance: &Instance) {
    match instance.status {
        model::Status::Running => {
            if record.status != Status::Running {
                record.status = Status::Running;
                record.error = None;
            }
        }
        model::Status::Stopped => {
            record.status = Status::Stopped;
            record.ip = None;
        }
        model::Status::Changing | model::Status::Failed => {}
    }
}
