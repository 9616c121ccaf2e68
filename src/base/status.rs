//! What there is of a base, as the server has it.

use super::{BaseBuilder, Error, Result, recipe};
use crate::config::Parent;
use crate::model::{Backend, Checkpoint, CloneSource, Instance, Label, Name};

/// On a base's own pixel its name; clones inherit the key, but not that name.
pub(super) const KEY: &str = "base";
/// The fingerprint of the recipe it was built by.
pub(super) const RECIPE: &str = "base-recipe";
/// The checkpoint of the base it was built from.
pub(super) const PARENT: &str = "base-parent";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseStatus {
    Missing,
    /// By a process of this machine, this one included.
    Building,
    Ready {
        checkpoint: Label,
        /// Seconds since 1970.
        created_at: i64,
        /// Why it should be built anew; empty when it need not.
        outdated: Vec<String>,
    },
    /// A pixel of that name is there, and nothing to clone.
    Unusable,
}

impl BaseStatus {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Building => "building",
            Self::Ready { outdated, .. } if !outdated.is_empty() => "outdated",
            Self::Ready { .. } => "ready",
            Self::Unusable => "unusable",
        }
    }
}

impl BaseBuilder {
    pub async fn status(&self, backend: &dyn Backend, base: &str) -> Result<BaseStatus> {
        let pixel = self.pixel(base)?;
        let building = self.try_lock(&pixel)?.is_none();
        let Some(instance) = get(backend, base, &pixel).await? else {
            return Ok(if building {
                BaseStatus::Building
            } else {
                BaseStatus::Missing
            });
        };
        match newest(backend, base, &pixel).await? {
            Some(checkpoint) => Ok(BaseStatus::Ready {
                outdated: self.outdated(backend, base, &instance).await?,
                checkpoint: checkpoint.label,
                created_at: checkpoint.created_at,
            }),
            None if building => Ok(BaseStatus::Building),
            None => Ok(BaseStatus::Unusable),
        }
    }

    /// What clones of a base are made from; `None` as long as there is nothing.
    pub async fn ready_checkpoint(
        &self,
        backend: &dyn Backend,
        base: &str,
    ) -> Result<Option<CloneSource>> {
        let pixel = self.pixel(base)?;
        let newest = newest(backend, base, &pixel).await?;
        Ok(newest.map(|checkpoint| CloneSource {
            pixel,
            label: Some(checkpoint.label),
        }))
    }

    /// Why a base that is there should be built anew.
    async fn outdated(
        &self,
        backend: &dyn Backend,
        base: &str,
        instance: &Instance,
    ) -> Result<Vec<String>> {
        // Made by hand: it is what somebody wanted it to be.
        if !is_base(instance) {
            return Ok(Vec::new());
        }
        let recorded = |key: &str| instance.properties.get(key).map(String::as_str);
        let config = self.base(base)?;
        let mut reasons = Vec::new();
        match recipe::setup_script(base, config) {
            Ok(script) => {
                let now = recipe::fingerprint(config, script.as_deref());
                if recorded(RECIPE) != Some(now.as_str()) {
                    reasons.push("its recipe has changed".to_owned());
                }
            }
            Err(error) => reasons.push(error.to_string()),
        }
        if let Parent::Base(parent) = &config.parent {
            let now = self.lineage(backend, parent).await?;
            if now.is_some() && now.as_deref() != recorded(PARENT) {
                reasons.push(format!("its parent {parent} is newer"));
            }
        }
        Ok(reasons)
    }

    /// Tells one build of a base from the next.
    pub(super) async fn lineage(
        &self,
        backend: &dyn Backend,
        base: &str,
    ) -> Result<Option<String>> {
        let pixel = self.pixel(base)?;
        let newest = newest(backend, base, &pixel).await?;
        Ok(newest.map(|it| format!("{} {}", it.label, it.created_at)))
    }
}

/// Whether this is a pixel that a base was built into.
pub(super) fn is_base(instance: &Instance) -> bool {
    instance.properties.get(KEY).map(String::as_str) == Some(instance.name.as_str())
}

pub(super) async fn get(
    backend: &dyn Backend,
    base: &str,
    pixel: &Name,
) -> Result<Option<Instance>> {
    match backend.get(pixel).await {
        Ok(instance) => Ok(Some(instance)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(Error::about(base)(error)),
    }
}

/// The newest checkpoint; `None` also when there is no such pixel.
pub(super) async fn newest(
    backend: &dyn Backend,
    base: &str,
    pixel: &Name,
) -> Result<Option<Checkpoint>> {
    let checkpoints = match backend.checkpoints(pixel).await {
        Ok(checkpoints) => checkpoints,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(Error::about(base)(error)),
    };
    Ok(checkpoints.into_iter().rfind(|it| !it.temporary))
}
