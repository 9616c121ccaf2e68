//! The network of a pixel: an existing network, where the pixel enforces its
//! own policy, or an isolated bridge, where a gateway enforces the policies of
//! all pixels.

use tokio_util::sync::CancellationToken;

use super::gateway::{self, GatewaySpec};
use super::guest_policy::{self, GuestPolicy};
use super::{Error, Progress, policy_properties};
use crate::egress::gateway::ADDRESS;
use crate::egress::{Mode, Policy};
use crate::model::{Attachment, Backend, Instance, Name, Properties, Result};

/// The network of a pixel.
#[derive(Debug, Clone)]
pub enum Network {
    /// The network of the settings. Policies are enforced only inside pixels.
    External(GuestPolicy),
    /// An isolated bridge behind a gateway.
    Gateway(GatewaySpec),
}

impl Network {
    /// Returns the network of an existing pixel. `gateway_spec` supplies all
    /// settings except the bridge.
    pub(super) fn of_instance(instance: &Instance, gateway_spec: &GatewaySpec) -> Self {
        match &instance.isolated_bridge {
            None => Self::External(GuestPolicy {
                dns: gateway_spec.dns.clone(),
            }),
            Some(bridge) => Self::Gateway(gateway_spec.for_bridge(bridge)),
        }
    }

    pub(super) fn attachment(&self) -> Attachment {
        match self {
            Self::External(_) => Attachment::Default,
            Self::Gateway(gateway) => Attachment::IsolatedBridge(gateway.bridge.clone()),
        }
    }

    /// Properties that record the policy of a new pixel.
    pub fn new_policy_properties(&self, policy: &Policy) -> Properties {
        match self {
            // Without a gateway, an unrestricted pixel has no policy record.
            Self::External(_) if policy.mode == Mode::Unrestricted => Properties::new(),
            _ => policy_properties::of_new(policy),
        }
    }

    /// Adds a random address for a new pixel behind a gateway.
    /// [`gateway::admit`] replaces an address that another pixel has.
    pub(super) fn insert_address(&self, properties: &mut Properties) {
        if let Self::Gateway(gateway) = self {
            properties.insert(ADDRESS.into(), gateway::random_address(gateway));
        }
    }

    /// Creates, starts or updates the gateway if necessary.
    pub(super) async fn ensure(
        &self,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        match self {
            Self::External(_) => Ok(()),
            Self::Gateway(gateway) => gateway::ensure(backend, cancel, gateway, progress).await,
        }
    }

    /// Writes the policy to the disk of a new pixel before its first start, or
    /// removes a policy that a clone inherited and does not need.
    pub(super) async fn prepare(
        &self,
        backend: &dyn Backend,
        name: &Name,
        clone: bool,
    ) -> Result<()> {
        match self {
            Self::External(guest_policy) => guest_policy.prepare(backend, name, clone).await,
            // Later policy changes would not reach the inherited policy.
            Self::Gateway(_)
                if clone && guest_policy::has_guest_policy(&backend.get(name).await?) =>
            {
                guest_policy::clear(backend, name).await
            }
            Self::Gateway(_) => Ok(()),
        }
    }

    /// Starts a pixel and applies its policy.
    ///
    /// Behind a gateway, both happen in parallel: the gateway forwards no
    /// packets of the pixel before its policy is applied. On other networks,
    /// the pixel applies its policy before its network starts.
    pub(super) async fn start(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        match self {
            Self::External(guest_policy) => {
                backend.start(name).await?;
                guest_policy.ensure_enforced(backend, name).await
            }
            Self::Gateway(gateway) => {
                let admission = gateway::admit(backend, gateway, name);
                tokio::try_join!(backend.start(name), admission).map(drop)
            }
        }
    }

    /// Applies the recorded policy in a running pixel that enforces its policy
    /// itself.
    pub(super) async fn ensure_enforced(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        match self {
            Self::External(guest_policy) => guest_policy.ensure_enforced(backend, name).await,
            Self::Gateway(_) => Ok(()),
        }
    }

    /// Removes deleted pixels from the gateway. Errors are only logged: the
    /// entry of a deleted pixel gives no other pixel access.
    pub(super) async fn reconcile(&self, backend: &dyn Backend) {
        if let Self::Gateway(gateway) = self
            && let Err(error) = gateway::reconcile(backend, gateway).await
        {
            tracing::debug!(%error, "cannot reconcile the gateway");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policies_other_than_unrestricted_are_recorded() {
        let network = Network::External(GuestPolicy { dns: Vec::new() });
        let open = Policy::new(Mode::Unrestricted, []);
        assert!(network.new_policy_properties(&open).is_empty());
        for mode in [Mode::Agent, Mode::Allowlist] {
            let properties = network.new_policy_properties(&open.in_mode(mode));
            assert_eq!(properties.len(), 1, "{mode}");
        }
    }
}
