//! Restores a checkpoint with its policy.

use super::checkpoint::find_checkpoint;
use super::gateway::{self, GatewaySpec};
use super::network::Network;
use super::{expiry, policy_properties};
use crate::model::{Backend, Instance, Label, Name, Result, Status};

/// Restores a checkpoint and its policy. Keeps the current expiry of the pixel.
///
/// Behind a gateway, the policy of the checkpoint is applied before the disk is
/// restored. If the restore fails, the current policy is applied again.
pub async fn restore(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    name: &Name,
    label: &Label,
) -> Result<()> {
    let instance = backend.get(name).await?;
    let outcome = restore_with_policy(backend, gateway_spec, &instance, label).await;
    expiry::restore_expiry(backend, &instance).await?;
    outcome
}

async fn restore_with_policy(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    instance: &Instance,
    label: &Label,
) -> Result<()> {
    let name = &instance.name;
    let gateway = match Network::of_instance(instance, gateway_spec) {
        Network::Gateway(gateway) => gateway,
        Network::External(guest_policy) => {
            // The disk contains the policy; its properties are restored too.
            backend.restore(name, label).await?;
            return match backend.get(name).await?.status {
                Status::Running => guest_policy.ensure_enforced(backend, name).await,
                _ => Ok(()),
            };
        }
    };
    let checkpoint = find_checkpoint(backend, name, label).await?;
    let present = policy_properties::select(&instance.properties);
    let restored = policy_properties::select(&checkpoint.properties);
    if present == restored {
        // Check before the restore that the gateway is running.
        gateway::require(backend, &gateway).await?;
    } else {
        let change = |_: &Instance| Ok(restored.clone());
        gateway::change(backend, &gateway, name, &change).await?;
    }
    if let Err(error) = backend.restore(name, label).await {
        if present != restored {
            backend.set_properties(name, &present).await?;
            gateway::reconcile(backend, &gateway).await?;
        }
        return Err(error);
    }
    // Another pixel may now have the address recorded in the checkpoint.
    gateway::admit(backend, &gateway, name).await
}
