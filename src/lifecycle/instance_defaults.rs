//! Defaults for pixels that a server or a base build creates: network, policy,
//! provisioning, limits and image, read from the settings at the start.

use super::gateway::GatewaySpec;
use super::network::Network;
use crate::egress::Policy;
use crate::model::{Backend, Limits, Result};
use crate::provision::Plan;

#[derive(Debug, Clone)]
pub struct InstanceDefaults {
    pub network: Network,
    /// Settings to create a missing gateway.
    pub gateway: GatewaySpec,
    /// The default policy. Its rules apply in all modes.
    pub policy: Policy,
    /// The provisioning plan. `None` disables provisioning.
    pub plan: Option<Plan>,
    pub limits: Limits,
    /// The default image.
    pub image: String,
    /// `None` if the user has configured an image.
    pub default_image: Option<DefaultImage>,
}

/// The built-in default image, and the prefix of its fallback images.
#[derive(Debug, Clone)]
pub struct DefaultImage {
    pub image: String,
    /// Prefix of the aliases of local images to use if the server lacks
    /// `image`.
    pub fallback_prefix: String,
}

impl InstanceDefaults {
    /// Returns `image`, or the local fallback image if `image` is the default
    /// image and the server lacks it.
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

    /// Defaults for tests: default network, no policy, provisioning or limits.
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
