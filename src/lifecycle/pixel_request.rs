//! A new pixel as a user or a client asks for it, completed with the defaults
//! of the settings.

use tokio_util::sync::CancellationToken;

use super::{
    CloneNames, CreateOptions, Error, ForkOptions, InstanceDefaults, Progress,
    clone_policy_properties, create, fork,
};
use crate::egress::{self, Policy};
use crate::model::{Backend, CloneSource, Limits, Name, Properties};

#[derive(Debug, Clone)]
pub enum PixelSource {
    /// An alias that the server resolves.
    Image(String),
    /// The present state of a pixel, or one of its checkpoints.
    Clone(CloneSource),
}

#[derive(Debug, Clone)]
pub struct PixelRequest {
    pub name: Name,
    pub source: PixelSource,
    /// Without a limit, a pixel from an image gets the default and a clone the
    /// limit of its source.
    pub limits: Limits,
    /// `None`: the default policy; a clone keeps the policy of its source if that
    /// is more than `unrestricted`.
    pub policy: Option<Policy>,
    /// Recorded beside the properties that describe policy and source.
    pub properties: Properties,
}

impl InstanceDefaults {
    /// Creates and starts a pixel, as [`create()`] or [`fork()`] do.
    ///
    /// Returns whether the pixel has an interim policy, which
    /// [`finish_provisioning`](super::finish_provisioning()) ends.
    pub async fn create_pixel(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        request: PixelRequest,
        progress: Progress<'_>,
    ) -> Result<bool, Error> {
        let default = self.policy.in_mode(self.policy.mode);
        match request.source {
            PixelSource::Image(image) => {
                let policy = request.policy.unwrap_or(default);
                let installs = self.plan.is_some();
                let mut properties = self.network.new_policy_properties(&policy, installs);
                let interim = properties.contains_key(egress::INTERIM);
                properties.extend(request.properties);
                let options = CreateOptions {
                    name: request.name,
                    image,
                    limits: Limits {
                        cpu: request.limits.cpu.or_else(|| self.limits.cpu.clone()),
                        memory: request.limits.memory.or(self.limits.memory),
                    },
                    properties,
                    provision: self.plan.clone(),
                    network: self.network.clone(),
                };
                create(backend, cancel, options, progress).await?;
                Ok(interim)
            }
            PixelSource::Clone(from) => {
                let policy = request.policy.as_ref();
                let mut properties =
                    clone_policy_properties(backend, policy, &default, &from).await?;
                properties.extend(request.properties);
                properties.insert("from".into(), from.to_string());
                let options = ForkOptions {
                    from,
                    names: CloneNames::One(request.name),
                    limits: request.limits,
                    properties,
                    network: self.network.clone(),
                };
                fork(backend, cancel, options, progress, &|_| {}).await?;
                Ok(false)
            }
        }
    }
}
