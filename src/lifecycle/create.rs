//! Creates a pixel from the request of a user or client and the defaults of the
//! settings.

use tokio_util::sync::CancellationToken;

use super::creator::Creator;
use super::rollback::Rollback;
use super::{
    CloneNames, Error, ForkOptions, InstanceDefaults, Lease, Network, Progress, begin_provisioning,
    clone_policy_properties, fork, identity, provisioning,
};
use crate::egress::Policy;
use crate::model::{
    Backend, CloneSource, CreateSpec, Limits, Name, Properties, Result, unless_cancelled,
};

#[derive(Debug, Clone)]
pub enum PixelSource {
    /// An image alias, which the server resolves.
    Image(String),
    /// The current state of a pixel, or one of its checkpoints.
    Clone(CloneSource),
}

/// The pixel to create.
#[derive(Debug, Clone)]
pub struct PixelRequest {
    pub name: Name,
    pub source: PixelSource,
    /// Limits. By default, a pixel from an image has the default limits and a
    /// clone has the limits of its source.
    pub limits: Limits,
    /// The policy. By default, the default policy; a clone keeps the policy of
    /// its source unless that policy is `unrestricted`.
    pub policy: Option<Policy>,
    /// Properties to store in addition to those of the policy.
    pub properties: Properties,
}

impl InstanceDefaults {
    /// Creates and starts a pixel under its policy. In a pixel from an image,
    /// provisioning steps then run in the background.
    ///
    /// Returns the provisioning lease, for
    /// [`finish_provisioning`](super::finish_provisioning()). On failure or
    /// cancellation, the pixel is deleted, or the error lists it as a leftover.
    pub async fn create_pixel<'a>(
        &self,
        backend: &'a dyn Backend,
        cancel: &CancellationToken,
        request: PixelRequest,
        progress: Progress<'_>,
    ) -> Result<Option<Lease<'a>>, Error> {
        let default = self.policy.in_mode(self.policy.mode);
        match request.source {
            PixelSource::Image(image) => {
                let policy = request.policy.unwrap_or(default);
                let mut properties = self.network.new_policy_properties(&policy);
                properties.extend(request.properties);
                let creator = Creator::new();
                let spec = CreateSpec {
                    first_boot: identity::first_boot(&creator, &request.name),
                    name: request.name,
                    image,
                    network: self.network.attachment(),
                    limits: Limits {
                        cpu: request.limits.cpu.or_else(|| self.limits.cpu.clone()),
                        memory: request.limits.memory.or(self.limits.memory),
                        disk: request.limits.disk,
                    },
                    properties,
                };
                self.create(backend, cancel, &creator, spec, progress).await
            }
            PixelSource::Clone(from) => {
                let policy = request.policy.as_ref();
                let mut properties =
                    clone_policy_properties(backend, policy, &default, &from).await?;
                properties.extend(request.properties);
                let options = ForkOptions {
                    from,
                    names: CloneNames::One(request.name),
                    limits: request.limits,
                    properties,
                    network: self.network.clone(),
                };
                fork(backend, cancel, options, progress, &|_| {}).await?;
                Ok(None)
            }
        }
    }

    async fn create<'a>(
        &self,
        backend: &'a dyn Backend,
        cancel: &CancellationToken,
        creator: &Creator,
        mut spec: CreateSpec,
        progress: Progress<'_>,
    ) -> Result<Option<Lease<'a>>, Error> {
        self.network.ensure(backend, cancel, progress).await?;
        creator.insert_into(&mut spec.properties);
        self.network.insert_address(&mut spec.properties);
        if self.plan.is_some() {
            provisioning::insert_applying(creator, &mut spec.properties);
        }
        let mut undo = Rollback::new(backend, creator);
        undo.track_pixel(&spec.name);
        let work = async { create_and_start(backend, &self.network, &spec, progress).await };
        let provisioned = async {
            unless_cancelled(cancel, work).await?;
            let Some(plan) = &self.plan else {
                return Ok(None);
            };
            progress("provisioning");
            begin_provisioning(backend, cancel, &self.gateway, &spec.name, plan).await
        };
        let mut error = match provisioned.await {
            Ok(lease) => return Ok(lease),
            Err(error) => error,
        };
        progress("cleaning up");
        error.leftovers.extend(undo.unwind().await);
        self.network.reconcile(backend).await;
        Err(error)
    }
}

/// Creates and starts an instance under its policy, without provisioning.
pub(super) async fn create_and_start(
    backend: &dyn Backend,
    network: &Network,
    spec: &CreateSpec,
    progress: Progress<'_>,
) -> Result<()> {
    progress("creating");
    let init_script = backend.create(spec).await?;
    identity::ensure_identity(backend, &spec.name, init_script).await?;
    network.prepare(backend, &spec.name, false).await?;
    progress("starting");
    network.start(backend, &spec.name).await
}
