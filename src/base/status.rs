//! The status of a base on the server.

use super::{BaseBuilder, Error, Result, recipe};
use crate::config::Parent;
use crate::lifecycle::optional;
use crate::model::{Backend, Checkpoint, CloneSource, Instance, Label, Name};

/// Property of the pixel of a base: the name of that pixel. Clones inherit the
/// property, but have another name.
pub(super) const BASE_KEY: &str = "base";
/// Fingerprint of the recipe when the base was built.
pub(super) const RECIPE_KEY: &str = "base-recipe";
/// [`BaseBuilder::build_id`] of the parent when the base was built.
pub(super) const PARENT_KEY: &str = "base-parent";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseStatus {
    Missing,
    /// A process of this user on this machine is building the base.
    Building,
    Ready {
        checkpoint: Label,
        /// Seconds since 1970.
        created_at: i64,
        /// Reasons to rebuild the base. Empty if the base is up to date.
        outdated: Vec<String>,
    },
    /// The pixel of the base exists, but has no checkpoint to clone.
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
        let Some(instance) = find_pixel(backend, base, &pixel).await? else {
            return Ok(if building {
                BaseStatus::Building
            } else {
                BaseStatus::Missing
            });
        };
        match self.newest_checkpoint(backend, base).await? {
            Some(checkpoint) => Ok(BaseStatus::Ready {
                outdated: self.outdated(backend, base, &instance).await?,
                checkpoint: checkpoint.label,
                created_at: checkpoint.created_at,
            }),
            None if building => Ok(BaseStatus::Building),
            None => Ok(BaseStatus::Unusable),
        }
    }

    /// Returns the checkpoint to clone for a base. `None` if the base has no
    /// checkpoint.
    pub async fn ready_checkpoint(
        &self,
        backend: &dyn Backend,
        base: &str,
    ) -> Result<Option<CloneSource>> {
        let pixel = self.pixel(base)?;
        let newest = self.newest_checkpoint(backend, base).await?;
        Ok(newest.map(|checkpoint| CloneSource {
            pixel,
            label: Some(checkpoint.label),
        }))
    }

    /// Returns reasons to rebuild a base.
    async fn outdated(
        &self,
        backend: &dyn Backend,
        base: &str,
        instance: &Instance,
    ) -> Result<Vec<String>> {
        // The user created this pixel without a base build.
        if !is_base(instance) {
            return Ok(Vec::new());
        }
        let recorded = |key: &str| instance.properties.get(key).map(String::as_str);
        let config = self.config(base)?;
        let mut reasons = Vec::new();
        match recipe::setup_script(base, config) {
            Ok(script) => {
                let fingerprint = recipe::fingerprint(config, script.as_deref());
                if recorded(RECIPE_KEY) != Some(fingerprint.as_str()) {
                    reasons.push("its recipe has changed".to_owned());
                }
            }
            Err(error) => reasons.push(error.to_string()),
        }
        if let Parent::Base(parent) = &config.parent {
            let parent_id = self.build_id(backend, parent).await?;
            if parent_id.is_some() && parent_id.as_deref() != recorded(PARENT_KEY) {
                reasons.push(format!("its parent {parent} is newer"));
            }
        }
        Ok(reasons)
    }

    /// Identifies the current build of a base. `None` if the base is missing.
    pub(super) async fn build_id(
        &self,
        backend: &dyn Backend,
        base: &str,
    ) -> Result<Option<String>> {
        let newest = self.newest_checkpoint(backend, base).await?;
        Ok(newest.map(|checkpoint| format!("{} {}", checkpoint.label, checkpoint.created_at)))
    }

    /// Returns the newest checkpoint of a base that is not temporary. `None` if
    /// there is no checkpoint or no pixel.
    pub(super) async fn newest_checkpoint(
        &self,
        backend: &dyn Backend,
        base: &str,
    ) -> Result<Option<Checkpoint>> {
        let checkpoints = optional(backend.checkpoints(&self.pixel(base)?).await);
        let checkpoints = checkpoints.map_err(Error::in_base(base))?;
        let checkpoints = checkpoints.unwrap_or_default();
        Ok(checkpoints.into_iter().rfind(|it| !it.temporary))
    }
}

/// Whether this pixel contains a base that a build created.
pub(super) fn is_base(instance: &Instance) -> bool {
    instance.properties.get(BASE_KEY).map(String::as_str) == Some(instance.name.as_str())
}

pub(super) async fn find_pixel(
    backend: &dyn Backend,
    base: &str,
    pixel: &Name,
) -> Result<Option<Instance>> {
    optional(backend.get(pixel).await).map_err(Error::in_base(base))
}
