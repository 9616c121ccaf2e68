//! The policy of an existing pixel: change it, and report the enforcer and the
//! denied connections.

use tokio_util::sync::CancellationToken;

use super::gateway::{self, GatewaySpec};
use super::network::Network;
use super::policy_properties::{recorded_policy, replacement, select_keys};
use super::{Error, guest_policy};
use crate::egress::{self, Denials, Mode, Policy};
use crate::model::{self, Backend, Instance, Name, Properties, Result, Status, unless_cancelled};

/// Changes the recorded policy of a pixel, applies it and ends the provisioning
/// lease. On failure, the previous policy remains recorded and applied. Returns the
/// pixel as it was before.
///
/// Behind a gateway, concurrent changes are applied one after another and none
/// is lost: `change` gets the current policy.
pub async fn change_policy(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway_spec: &GatewaySpec,
    name: &Name,
    change: &(dyn Fn(&mut Policy) -> Result<()> + Sync),
) -> Result<Instance, Error> {
    let instance = unless_cancelled(cancel, backend.get(name)).await?;
    let network = Network::of_instance(&instance, gateway_spec);
    network.ensure(backend, cancel, &|_| {}).await?;
    let changed_properties = |instance: &Instance| -> Result<Properties> {
        let mut policy = recorded_policy(instance)?;
        change(&mut policy)?;
        Ok(replacement(&policy))
    };
    apply_change(backend, &network, &instance, &changed_properties).await?;
    Ok(instance)
}

/// Sets the properties that `change` returns and applies the policy they
/// record. On failure, restores the previous properties and policy.
async fn apply_change(
    backend: &dyn Backend,
    network: &Network,
    instance: &Instance,
    change: &(dyn Fn(&Instance) -> Result<Properties> + Sync),
) -> Result<()> {
    let name = &instance.name;
    let guest_policy = match network {
        Network::Gateway(gateway) => {
            return gateway::change(backend, gateway, name, change)
                .await
                .map(drop);
        }
        Network::External(guest_policy) => guest_policy,
    };
    let mut properties = change(instance)?;
    let mut changed = instance.clone();
    changed.properties.extend(properties.clone());
    changed.properties.retain(|_, value| !value.is_empty());
    properties.extend(guest_policy.pending_properties(&changed)?);
    let mut before = select_keys(&instance.properties, properties.keys().map(String::as_str));
    backend.set_properties(name, &properties).await?;
    if let Err(error) = guest_policy.sync_until_stable(backend, name).await {
        let may_have_files =
            instance.status == Status::Running || backend.can_access_stopped_files();
        if may_have_files && guest_policy::has_guest_policy(instance) {
            before.extend(guest_policy.pending_properties(instance)?);
        }
        backend.set_properties(name, &before).await?;
        // The failed attempt may have applied a part of the change. The second
        // attempt may fail for the same reason; the next start then writes the files.
        if let Err(second) = guest_policy.sync_until_stable(backend, name).await {
            tracing::debug!(error = %second, "cannot apply the previous policy");
        }
        return Err(error);
    }
    Ok(())
}

/// The enforcer of a pixel's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcer {
    /// The gateway, which root in the pixel cannot change.
    Gateway,
    /// The pixel itself. Root in the pixel can remove the policy.
    Pixel,
    /// No enforcer: the pixel is unrestricted and has no gateway.
    None,
}

impl Enforcer {
    pub fn of_instance(instance: &Instance) -> Self {
        match &instance.isolated_bridge {
            Some(_) => Self::Gateway,
            None if guest_policy::needs_guest_policy(instance) => Self::Pixel,
            None => Self::None,
        }
    }

    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Gateway => Some("gateway"),
            Self::Pixel => Some("pixel"),
            Self::None => None,
        }
    }
}

/// Whether a running pixel has applied its recorded policy. `None` if the pixel
/// is not running or does not enforce its own policy.
pub async fn is_enforced(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
) -> Result<Option<bool>> {
    match Network::of_instance(pixel, gateway_spec) {
        Network::External(guest_policy)
            if guest_policy::needs_guest_policy(pixel) && pixel.status == Status::Running =>
        {
            Ok(Some(guest_policy.is_enforced(backend, pixel).await?))
        }
        _ => Ok(None),
    }
}

/// Returns the latest denied connections of a pixel. Fails with
/// `Error::Unsupported` if no policy is enforced on the pixel.
pub async fn denials(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
) -> Result<Denials> {
    let mut denials = read_denials(backend, gateway_spec, pixel).await?;
    if recorded_policy(pixel).is_ok_and(|policy| policy.mode == Mode::Unrestricted) {
        // Only `network.lan` allows the names that this mode denies.
        let names = denials.latest.iter_mut().filter(|d| d.protocol == "dns");
        names.for_each(|denial| denial.rule = None);
    }
    Ok(denials)
}

async fn read_denials(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
) -> Result<Denials> {
    let name = pixel.name.as_str();
    if let Some(bridge) = &pixel.isolated_bridge {
        let no_address =
            || model::Error::Protocol(format!("pixel {name:?} has no recorded address"));
        let address = egress::gateway::address_of(pixel).ok_or_else(no_address)?;
        let gateway = gateway_spec.for_bridge(bridge).name;
        return egress::denials(&*backend.guest(&gateway), Some(address)).await;
    }
    if !guest_policy::has_guest_policy(pixel) {
        return Err(model::Error::Unsupported {
            operation: format!("the log of pixel {name:?}"),
            reason: "no policy is enforced on it, so nothing is denied".into(),
        });
    }
    egress::denials(&*backend.guest(&pixel.name), None).await
}
