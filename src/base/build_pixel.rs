//! The pixel in which a base is built: created from an image like any pixel, or
//! cloned from the parent base.

use super::build::{BUILD_PIXEL_KEY, Build};
use super::{Error, Result};
use crate::config::{Base, Parent};
use crate::lifecycle::{self, CloneNames, CreateOptions, ForkOptions};
use crate::model::{Limits, Name};

impl Build<'_> {
    /// Creates and starts the pixel.
    pub(super) async fn create_build_pixel(&self, config: &Base, pixel: &Name) -> Result<()> {
        let (backend, base) = (self.backend, self.base);
        let defaults = &self.builder.defaults;
        let failed = Error::in_base(base);
        let policy = defaults.policy.in_mode(config.egress);
        let build_property = (BUILD_PIXEL_KEY.to_owned(), pixel.to_string());
        let progress = |phase: &str| self.phase(phase);
        let outcome = match &config.parent {
            Parent::Image(image) => {
                let mut properties = defaults
                    .network
                    .new_policy_properties(&policy, defaults.plan.is_some());
                properties.extend([build_property]);
                let image = defaults.resolve_image(backend, image).await;
                let options = CreateOptions {
                    name: pixel.clone(),
                    image: image.map_err(&failed)?,
                    limits: defaults.limits.clone(),
                    properties,
                    provision: defaults.plan.clone(),
                    network: defaults.network.clone(),
                };
                lifecycle::create(backend, self.cancel, options, &progress).await
            }
            Parent::Base(parent) => {
                let from = self.builder.ready_checkpoint(backend, parent).await?;
                let from = from.ok_or_else(|| Error::NameTaken {
                    base: parent.clone(),
                    pixel: format!("{}{parent}", self.builder.prefix),
                })?;
                let properties =
                    lifecycle::clone_policy_properties(backend, Some(&policy), &policy, &from);
                let mut properties = properties.await.map_err(&failed)?;
                properties.extend([build_property]);
                let options = ForkOptions {
                    from,
                    names: CloneNames::One(pixel.clone()),
                    limits: Limits::default(),
                    properties,
                    network: defaults.network.clone(),
                };
                lifecycle::fork(backend, self.cancel, options, &progress, &|_| {}).await
            }
        };
        outcome.map_err(|source| Error::Lifecycle {
            base: base.into(),
            source,
        })
    }
}
