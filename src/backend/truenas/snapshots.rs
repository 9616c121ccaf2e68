//! Checkpoints are snapshots of the dataset that is the pixel's disk.

use std::time::Duration;

use serde_json::{Value, json};

use super::Truenas;
use super::convert::Found;
use super::error::Failure;
use super::properties::{self, PropertyKey};
use super::wire::Snapshot;
use crate::model::{Checkpoint, Error, Label, Name, Properties, Result, Status, Subject};

/// An instance, its dataset and its snapshots, oldest first.
pub(super) struct Disk {
    pub found: Found,
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

    /// What a rollback to `label` destroys.
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
        let found = self.find(name).await?;
        let dataset = self.dataset(&found).await?;
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        let params = json!([
            [["dataset", "=", dataset]],
            {"extra": {"properties": ["creation", "referenced", "used", "defer_destroy"]}},
        ]);
        let mut snapshots: Vec<Snapshot> = self.read(release.table.snapshots.query, params).await?;
        // As numbers: the server would order the digits as text.
        snapshots.sort_by_key(Snapshot::order);
        Ok(Disk {
            found,
            dataset,
            snapshots,
        })
    }

    /// The settings' own place, or that of the pool the instance is in.
    pub(super) async fn dataset(&self, found: &Found) -> Result<String> {
        let dataset = match (&self.options.dataset_prefix, found) {
            (Some(prefix), _) => format!("{}/{}", prefix.trim_end_matches('/'), found.name()),
            (None, Found::Lxc(lxc)) => lxc.dataset.clone(),
            (None, Found::Virt(virt)) => {
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
        let config: Pool = self.read("virt.global.config", json!([])).await?;
        config.pool.ok_or_else(|| Error::WrongState {
            subject: Subject::Other("the containers service of TrueNAS".into()),
            state: "without a pool".into(),
        })
    }

    pub(super) async fn snapshot(&self, name: &Name, label: &Label) -> Result<()> {
        let disk = self.disk(name).await?;
        let taken = || Error::AlreadyExists(Subject::checkpoint(name, label));
        if disk.snapshot(name, label).is_ok() {
            return Err(taken());
        }
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        let params = json!([{"dataset": disk.dataset, "name": label.as_str()}]);
        match self
            .rpc
            .write::<Value>(release.table.snapshots.create, params)
            .await
        {
            Ok(_) => Ok(()),
            // It was not there before: what is there now is ours.
            Err(failure) if failure.is_uncertain() => {
                match self.disk(name).await?.snapshot(name, label) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(failure.into_error_for(Subject::checkpoint(name, label))),
                }
            }
            Err(failure) => Err(failure.into_error_for(Subject::checkpoint(name, label))),
        }
    }

    /// Notes what goes with a checkpoint that was just taken.
    pub(super) async fn note_checkpoint(&self, name: &Name, label: &Label) -> Result<()> {
        let disk = self.disk(name).await?;
        let Found::Virt(virt) = &disk.found else {
            return Ok(());
        };
        if let Some(id) = PropertyKey::Id.read_properties(&virt.environment) {
            self.ssh.host_saved(&name.instance(), id, label.as_str());
        }
        // A moment's checkpoint is gone before anything could change.
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

    pub(super) async fn snapshots_of(&self, name: &Name) -> Result<Vec<Checkpoint>> {
        let disk = self.disk(name).await?;
        // One that was taken by other means has those of now.
        let properties = |label: &Label| match &disk.found {
            Found::Virt(virt) => properties::at_checkpoint(&virt.environment, label.as_str())
                .unwrap_or_else(|| properties::read(&virt.environment)),
            Found::Lxc(_) => Properties::new(),
        };
        Ok(disk
            .snapshots
            .iter()
            // It goes with the last pixel that was cloned from it.
            .filter(|snapshot| snapshot.property("defer_destroy") != Some("on"))
            .filter_map(|snapshot| {
                // Names we could not act on (made by other tools) are not offered.
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

    /// Snapshots of whatever make that a restore would destroy.
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
        let older = !disk.newer(name, label)?.is_empty();
        let was_running = disk.found.status() != Status::Stopped;
        if was_running {
            // A shutdown would save nothing: the disk is put back anyway.
            self.stop(name, Duration::ZERO).await?;
        }
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        let params = json!([target, {"recursive": older}]);
        let method = release.table.snapshots.rollback;
        let outcome = match self.rpc.write::<Value>(method, params.clone()).await {
            // Once more changes nothing.
            Err(failure) if failure.is_uncertain() => self.rpc.write::<Value>(method, params).await,
            other => other,
        };
        let mut noted = Ok(());
        if outcome.is_ok()
            && let Found::Virt(virt) = &disk.found
        {
            if let Some(id) = PropertyKey::Id.read_properties(&virt.environment) {
                self.ssh.host_restored(&name.instance(), id, label.as_str());
            }
            // What is known of the pixel goes back with its disk.
            let back = |environment: &mut _| properties::restore(environment, label.as_str());
            noted = self.change_environment(name, back).await;
        }
        if was_running {
            self.start(name).await?;
        }
        match outcome {
            Ok(_) => noted,
            Err(Failure::Refused(fault)) if older => Err(Error::Server {
                code: u16::try_from(fault.errno).unwrap_or(0),
                message: format!(
                    "{fault} (a pixel that was cloned from a newer checkpoint keeps that one alive)"
                ),
            }),
            Err(failure) => Err(failure.into_error_for(Subject::checkpoint(name, label))),
        }
    }

    pub(super) async fn remove_snapshot(&self, name: &Name, label: &Label) -> Result<()> {
        let disk = self.disk(name).await?;
        let id = disk.snapshot(name, label)?.id.clone();
        // A temporary one goes when the last clone of it has gone.
        let defer = label.temporary_id().is_some();
        let release = self.rpc.release().await.map_err(Failure::into_error)?;
        let params = json!([id, {"defer": defer, "recursive": false}]);
        let about = |failure: Failure| failure.into_error_for(Subject::checkpoint(name, label));
        match self
            .rpc
            .write::<Value>(release.table.snapshots.delete, params)
            .await
        {
            Ok(_) => Ok(()),
            Err(Failure::Refused(fault)) if fault.is_about("options.defer") || fault.is_busy() => {
                Err(Error::WrongState {
                    subject: Subject::checkpoint(name, label),
                    state: "what other pixels were cloned from: destroy those first".into(),
                })
            }
            Err(failure) if failure.is_uncertain() => {
                let disk = self.disk(name).await?;
                match disk.snapshot(name, label) {
                    Err(_) => Ok(()),
                    Ok(left) if left.property("defer_destroy") == Some("on") => Ok(()),
                    Ok(_) => Err(about(failure)),
                }
            }
            Err(failure) => Err(about(failure)),
        }
    }
}

/// What may stand in a command of root's: a dataset the server or the
/// settings named, and nothing else.
pub(super) fn check_dataset(dataset: &str) -> Result<()> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-');
    let good = |part: &str| !part.is_empty() && !part.starts_with('-') && part != "..";
    if dataset.chars().all(sound) && dataset.split('/').all(good) && dataset.contains('/') {
        return Ok(());
    }
    Err(Error::Invalid(
        format!("{dataset:?} is no name of a dataset").into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_datasets_are_names_of_datasets() {
        for good in ["tank/.ix-virt/containers/px-a", "t_1/a.b-c"] {
            assert!(check_dataset(good).is_ok(), "{good}");
        }
        for bad in [
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
            assert!(check_dataset(bad).is_err(), "{bad:?}");
        }
    }
}
