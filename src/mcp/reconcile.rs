//! Updates the records from the backend: at the start, after an earlier
//! process, and later after pixels were changed outside this server.

use std::sync::Arc;

use super::create_task::{Attempt, record_on};
use super::error::Result;
use super::service::Service;
use super::state::{Record, Status};
use crate::model::{self, Instance};

impl Service {
    /// Resumes the work of an earlier process: adopts pixels of this server
    /// that have no record, continues unfinished creations, and finishes
    /// destructions.
    ///
    /// `inherited`: the records before this process served its first call.
    pub async fn recover(self: &Arc<Self>, inherited: &[Record]) -> Result<()> {
        let before = self.store.all();
        let instances = self.backend.list().await?;
        for instance in &instances {
            if !self.owns(instance) || self.store.get(instance.name.as_str()).is_some() {
                continue;
            }
            if let Some(mut record) = record_on(instance) {
                tracing::info!(sandbox = record.name, "adopted: it had no record");
                record.status = Status::Provisioning;
                record.last_activity_at = (self.clock)();
                let name = record.name.clone();
                if self.store.add(record, None) {
                    self.spawn_create(name, Attempt::Resumed);
                }
            }
        }
        for record in inherited {
            if record.doomed {
                self.spawn_destroy(record.name.clone());
            } else if record.status == Status::Provisioning {
                self.spawn_create(record.name.clone(), Attempt::Resumed);
            } else if record.restoring.is_some() {
                self.spawn_finish_restore(record.name.clone());
            }
        }
        self.merge_backend_state(&before, &instances);
        self.save_or_log().await;
        let service = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = service.stopping().cancelled() => {}
                () = service.base_builder.remove_interrupted_builds(&*service.backend) => {}
            }
        });
        Ok(())
    }

    fn spawn_finish_restore(self: &Arc<Self>, name: String) {
        let service = self.clone();
        self.tasks.spawn(async move {
            // Taking the lock finishes it.
            if let Err(error) = service.lock_for_use(&name).await {
                tracing::warn!(sandbox = name, %error, "cannot finish an interrupted restore");
            }
        });
    }

    /// Updates the records of sandboxes that are not being changed by a call.
    /// Returns all pixels of the server.
    pub(super) async fn reconcile(&self) -> Result<Vec<Instance>> {
        let before = self.store.all();
        let instances = self.backend.list().await?;
        self.merge_backend_state(&before, &instances);
        self.save_or_log().await;
        Ok(instances)
    }

    /// `before`: the records before the query to the backend. Skips records
    /// that have changed since then, because `instances` may be older.
    fn merge_backend_state(&self, before: &[Record], instances: &[Instance]) {
        for old in before {
            let Some(record) = self.store.get(&old.name) else {
                continue;
            };
            let unchanged = record.status == old.status && !record.doomed;
            if !unchanged || record.status == Status::Provisioning {
                continue;
            }
            // The call that holds the write lock updates the record.
            if self.locks.get(&record.name).is_changing() {
                continue;
            }
            let mut instances = instances.iter();
            match instances.find(|it| it.name.as_str() == record.name) {
                Some(instance) => {
                    self.record_instance(instance);
                    self.update(&record.name, |record| apply_status(record, instance));
                }
                None if record.status == Status::Failed => {}
                None => self.update(&record.name, |record| {
                    record.status = Status::Failed;
                    record.ip = None;
                    record.error = Some(
                        "its pixel was deleted outside this server; call destroy_sandbox to \
                         remove the entry"
                            .to_owned(),
                    );
                }),
            }
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
