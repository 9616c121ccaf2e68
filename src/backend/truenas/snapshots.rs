//! Implements checkpoints with ZFS snapshots of the pixel's dataset.

use std::time::Duration;

use serde_json::{Value, json};

use super::Truenas;
use super::convert::Container;
use super::error::{Failure, settle};
use super::messages::Meaning;
use super::properties::{self, PropertyKey};
use super::wire::Snapshot;
use crate::model::{Checkpoint, Error, Label, Name, Properties, Result, Status, Subject};

/// An instance, its dataset, and its snapshots with the oldest first.
pub(super) struct Disk {
    pub container: Container,
    pub dataset: String,
    pub snapshots: Vec<Snapshot>,
}

impl Disk {
    pub fn snapshot(&self, name: &Name, label: &Label) -> Result<&Snapshot> {
        self.snapshots
            .iter()
            .find(|snapshot| snapshot.snapshot_name == label.as_str())
            .ok_or_else(|| Error::NotFound(Subject::checkpoint(name, label)))
    }

    /// Returns the snapshots that a rollback to `label` would destroy.
    fn newer(&self, name: &Name, label: &Label) -> Result<Vec<&Snapshot>> {
        let order = self.snapshot(name, label)?.order();
        Ok(self
            .snapshots
            .iter()
            .filter(|s| s.order() > order)
            .collect())
    }
}

impl Truenas {
    pub(super) async fn disk(&self, name: &Name) -> Result<Disk> {
        let container = self.find(name).await?;
        let dataset = self.dataset(&container).await?;
        let params = json!([
            [["dataset", "=", dataset]],
            {"extra": {"properties": ["creation", "referenced", "used", "defer_destroy"]}},
        ]);
        let method = self.rpc.release().await?.snapshots().query;
        let mut snapshots: Vec<Snapshot> = self.rpc.read(method, params).await?;
        // The server would sort these numbers as text.
        snapshots.sort_by_key(Snapshot::order);
        Ok(Disk {
            container,
            dataset,
            snapshots,
        })
    }

    /// Returns the dataset of the container's disk, below the configured prefix or
    /// in the container's pool.
    pub(super) async fn dataset(&self, container: &Container) -> Result<String> {
        let dataset = match (&self.placement.dataset_prefix, container) {
            (Some(prefix), _) => format!("{}/{}", prefix.trim_end_matches('/'), container.name()),
            (None, Container::Lxc(lxc)) => lxc.dataset.clone(),
            (None, Container::Virt(virt)) => {
                let pool = match &virt.storage_pool {
                    Some(pool) => pool.clone(),
                    None => self.default_pool().await?,
                };
                format!("{pool}/.ix-virt/containers/{}", virt.name)
            }
        };
        check_dataset(&dataset)?;
        Ok(dataset)
    }

    async fn default_pool(&self) -> Result<String> {
        #[derive(serde::Deserialize)]
        struct Pool {
            pool: Option<String>,
        }
        let config: Pool = self.rpc.read("virt.global.config", json!([])).await?;
        config.pool.ok_or_else(|| Error::WrongState {
            subject: Subject::Other("the containers service of TrueNAS".into()),
            state: "without a pool".into(),
        })
    }

    pub(super) async fn create_snapshot(&self, name: &Name, label: &Label) -> Result<()> {
        let disk = self.disk(name).await?;
        if disk.snapshot(name, label).is_ok() {
            return Err(Error::AlreadyExists(Subject::checkpoint(name, label)));
        }
        let params = json!([{"dataset": disk.dataset, "name": label.as_str()}]);
        let method = self.rpc.release().await?.snapshots().create;
        let outcome = self.rpc.write::<Value>(method, params).await;
        // The snapshot did not exist before this call.
        let exists = async { Ok(self.disk(name).await?.snapshot(name, label).is_ok()) };
        settle(outcome, Subject::checkpoint(name, label), exists).await
    }

    /// Records the properties and the host key for a new checkpoint.
    pub(super) async fn record_checkpoint(&self, name: &Name, label: &Label) -> Result<()> {
        let disk = self.disk(name).await?;
        let Container::Virt(virt) = &disk.container else {
            return Ok(());
        };
        if let Some(id) = PropertyKey::Id.get(&virt.environment) {
            self.ssh.save_host_key(&name.instance(), id, label.as_str());
        }
        // A temporary checkpoint is deleted before properties can change.
        if label.temporary_id().is_some() {
            return Ok(());
        }
        let labels: Vec<&str> = disk
            .snapshots
            .iter()
            .map(|snapshot| snapshot.snapshot_name.as_str())
            .collect();
        self.change_environment(name, |environment| {
            properties::snapshot(environment, label.as_str(), &labels)
        })
        .await
    }

    pub(super) async fn list_checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>> {
        let disk = self.disk(name).await?;
        // Snapshots of other tools have no stored properties: use the current properties.
        let properties = |label: &Label| match &disk.container {
            Container::Virt(virt) => properties::at_checkpoint(&virt.environment, label.as_str())
                .unwrap_or_else(|| properties::read(&virt.environment)),
            Container::Lxc(_) => Properties::new(),
        };
        Ok(disk
            .snapshots
            .iter()
            .filter(|snapshot| !snapshot.is_deferred())
            .filter_map(|snapshot| {
                // Other tools may create snapshots whose names are not valid labels.
                let label: Label = snapshot.snapshot_name.parse().ok()?;
                let created = snapshot.number("creation").unwrap_or(0);
                Some(Checkpoint {
                    temporary: label.temporary_id().is_some(),
                    properties: properties(&label),
                    label,
                    created_at: i64::try_from(created).unwrap_or(0),
                    size: snapshot.number("referenced"),
                })
            })
            .collect())
    }

    /// Returns the names of all snapshots that a restore would destroy, including
    /// snapshots of other tools.
    pub(super) async fn newer_checkpoints(
        &self,
        name: &Name,
        label: &Label,
    ) -> Result<Vec<String>> {
        let disk = self.disk(name).await?;
        let newer = disk.newer(name, label)?;
        Ok(newer.iter().map(|s| s.snapshot_name.clone()).collect())
    }

    pub(super) async fn restore(&self, name: &Name, label: &Label) -> Result<()> {
        let disk = self.disk(name).await?;
        let target = disk.snapshot(name, label)?.id.clone();
        let has_newer = !disk.newer(name, label)?.is_empty();
        let was_running = disk.container.status() != Status::Stopped;
        if was_running {
            // A graceful stop is unnecessary, because the restore discards later writes.
            self.stop(name, Duration::ZERO).await?;
        }
        let params = json!([target, {"recursive": has_newer}]);
        let method = self.rpc.release().await?.snapshots().rollback;
        let outcome = match self.rpc.write::<Value>(method, params.clone()).await {
            // A repeated rollback has no further effect.
            Err(failure) if failure.is_uncertain() => self.rpc.write::<Value>(method, params).await,
            other => other,
        };
        let mut restored = Ok(());
        if outcome.is_ok()
            && let Container::Virt(virt) = &disk.container
        {
            if let Some(id) = PropertyKey::Id.get(&virt.environment) {
                self.ssh
                    .restore_host_key(&name.instance(), id, label.as_str());
            }
            let restore = |environment: &mut _| properties::restore(environment, label.as_str());
            restored = self.change_environment(name, restore).await;
        }
        if was_running {
            self.start(name).await?;
        }
        match outcome {
            Ok(_) => restored,
            Err(Failure::Refused(fault)) if has_newer => Err(Error::Server {
                code: u16::try_from(fault.errno).unwrap_or(0),
                message: format!("{fault} (a checkpoint that has clones cannot be deleted)"),
            }),
            Err(failure) => Err(failure.into_error_for(Subject::checkpoint(name, label))),
        }
    }

    pub(super) async fn delete_snapshot(&self, name: &Name, label: &Label) -> Result<()> {
        let disk = self.disk(name).await?;
        let id = disk.snapshot(name, label)?.id.clone();
        // ZFS destroys a temporary snapshot after its last clone is destroyed.
        let defer = label.temporary_id().is_some();
        let params = json!([id, {"defer": defer, "recursive": false}]);
        let method = self.rpc.release().await?.snapshots().delete;
        let subject = Subject::checkpoint(name, label);
        match self.rpc.write::<Value>(method, params).await {
            Err(Failure::Refused(fault)) if fault.means(Meaning::HasClones) => {
                Err(Error::WrongState {
                    subject,
                    state: "in use by pixels that were cloned from it".into(),
                })
            }
            outcome => {
                let is_gone = async {
                    let disk = self.disk(name).await?;
                    Ok(disk
                        .snapshot(name, label)
                        .map_or(true, Snapshot::is_deferred))
                };
                settle(outcome, subject, is_gone).await
            }
        }
    }
}

/// Fails unless the text is a plain dataset name. Such a name is safe in a
/// command that root runs.
pub(super) fn check_dataset(dataset: &str) -> Result<()> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-');
    let is_component = |part: &str| !part.is_empty() && !part.starts_with('-') && part != "..";
    if dataset.chars().all(is_valid)
        && dataset.split('/').all(is_component)
        && dataset.contains('/')
    {
        return Ok(());
    }
    Err(Error::Invalid(
        format!("invalid dataset name {dataset:?}").into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_dataset_accepts_only_plain_names() {
        for valid in ["tank/.ix-virt/containers/px-a", "t_1/a.b-c"] {
            assert!(check_dataset(valid).is_ok(), "{valid}");
        }
        for invalid in [
            "",
            "tank",
            "/tank/a",
            "tank//a",
            "tank/../a",
            "tank/-r",
            "-r/x",
            "tank/a b",
            "t/a;b",
            "t/$(x)",
            "t/a\nb",
            "t/a@s",
            "t/a'",
            "t/ä",
        ] {
            assert!(check_dataset(invalid).is_err(), "{invalid:?}");
        }
    }
}
