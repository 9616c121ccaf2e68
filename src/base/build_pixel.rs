//! Creates the pixel in which a base is built, from an image or by cloning the
//! parent base.

use super::build::{BUILD_PIXEL_KEY, Build};
use super::{Error, Result};
use crate::config::{Base, Parent};
use crate::lifecycle::{Lease, PixelRequest, PixelSource};
use crate::model::{Limits, Name, Properties};

impl Build<'_> {
    /// Creates and starts the pixel.
    pub(super) async fn create_build_pixel(
        &self,
        config: &Base,
        pixel: &Name,
    ) -> Result<Option<Lease<'_>>> {
        let (backend, base) = (self.backend, self.base);
        let defaults = &self.builder.defaults;
        let source = match &config.parent {
            Parent::Image(image) => {
                let image = defaults.resolve_image(backend, image).await;
                PixelSource::Image(image.map_err(Error::in_base(base))?)
            }
            Parent::Base(parent) => {
                let from = self.builder.ready_checkpoint(backend, parent).await?;
                PixelSource::Clone(from.ok_or_else(|| Error::NameTaken {
                    base: parent.clone(),
                    pixel: format!("{}{parent}", self.builder.prefix),
                })?)
            }
        };
        let request = PixelRequest {
            name: pixel.clone(),
            source,
            limits: Limits::default(),
            policy: Some(defaults.policy.in_mode(config.egress)),
            properties: Properties::from([(BUILD_PIXEL_KEY.to_owned(), pixel.to_string())]),
        };
        let progress = |phase: &str| self.phase(phase);
        let creation = defaults.create_pixel(backend, self.cancel, request, &progress);
        creation.await.map_err(Error::in_base(base))
    }
}
