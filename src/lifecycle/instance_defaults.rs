//! Defaults for pixels that a server or a base build creates: network, policy,
//! provisioning, limits and image, read from the settings once.

use super::gateway::GatewaySpec;
use super::network::Network;
use crate::egress::Policy;
use crate::model::{Backend, Limits, Result};
use crate::provision::Plan;

#[derive(Debug, Clone)]
pub struct InstanceDefaults {
    pub network: Network,
    /// How to create a missing gateway.
    pub gateway: GatewaySpec,
    /// The default policy. Its rules apply in every mode.
    pub policy: Policy,
    /// `None`: pixels are not provisioned.
    pub plan: Option<Plan>,
    pub limits: Limits,
    /// The image of pixels created without one.
    pub image: String,
    /// `None` if the user configured an image.
    pub default_image: Option<DefaultImage>,
}

/// The built-in default image and its fallback.
#[derive(Debug, Clone)]
pub struct DefaultImage {
    pub image: String,
    /// Aliases of local images to use if the server lacks `image` start with
    /// this.
    pub fallback_prefix: String,
}

impl InstanceDefaults {
    /// The image to create a pixel from if `image` was requested: `image`
    /// itself, or the fallback of the default image if the server lacks that.
    pub async fn resolve_image(&self, backend: &dyn Backend, image: &str) -> Result<String> {
        let requested = image.to_owned();
        let Some(default) = self.default_image.as_ref().filter(|it| it.image == image) else {
            return Ok(requested);
        };
        let aliases = backend.image_aliases().await?;
        if aliases.contains(&requested) {
            return Ok(requested);
        }
        let is_fallback = |alias: &String| alias.starts_with(&default.fallback_prefix);
        Ok(aliases
            .into_iter()
            .filter(is_fallback)
            .max()
            .unwrap_or(requested))
    }

    /// The default network, without policy, provisioning and limits.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self {
            network: Network::External(Default::default()),
            gateway: GatewaySpec::for_tests(),
            policy: Policy::new(crate::egress::Mode::Unrestricted, []),
            plan: None,
            limits: Limits::default(),
            image: String::new(),
            default_image: None,
        }
    }
}
