//! Restores a checkpoint with its policy.

use std::time::Duration;

use super::checkpoint::find_checkpoint;
use super::gateway::{self, GatewaySpec};
use super::guest_policy;
use super::network::Network;
use super::policy::apply_change;
use super::policy_properties::{recorded_policy, replacement, select, select_keys};
use super::{creator, expiry, provisioning};
use crate::egress::Policy;
use crate::model::{Backend, Checkpoint, Error, Instance, Label, Name, Properties, Result, Status};

/// Properties of the pixel, not of its disk: a restore keeps them.
const KEPT: [&str; 3] = [expiry::KEY, creator::KEY, provisioning::APPLYING];
/// Time to shut down before a restore under another policy.
const GRACE: Duration = Duration::from_secs(10);

/// Returns the policy after a restore, from the present policy and that of the
/// checkpoint.
pub type ChoosePolicy<'a> = &'a (dyn Fn(&Policy, &Policy) -> Policy + Sync);

/// Restores a checkpoint. The pixel gets the policy that `choose` returns, by
/// default that of the checkpoint. Keeps the current expiry of the pixel, and
/// whether the pixel is complete. Ends a provisioning lease.
///
/// Behind a gateway, the policy is applied before the disk is restored. If the
/// restore fails, the current policy is applied again.
pub async fn restore(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    name: &Name,
    label: &Label,
    choose: Option<ChoosePolicy<'_>>,
) -> Result<()> {
    let instance = backend.get(name).await?;
    let checkpoint = find_checkpoint(backend, name, label).await?;
    let outcome = match Network::of_instance(&instance, gateway_spec) {
        Network::Gateway(gateway) => {
            restore_behind_gateway(backend, &gateway, &instance, &checkpoint, choose).await
        }
        network @ Network::External(_) => {
            restore_with_guest_policy(backend, &network, &instance, &checkpoint, choose).await
        }
    };
    restore_marks(backend, &instance).await?;
    outcome
}

/// Sets the properties that a restore keeps to those of `before`.
pub(super) async fn restore_marks(backend: &dyn Backend, before: &Instance) -> Result<()> {
    let kept = select_keys(&before.properties, KEPT);
    backend.set_properties(&before.name, &kept).await
}

/// The policy properties after a restore.
fn policy_after(
    present: &Instance,
    checkpoint: &Checkpoint,
    choose: Option<ChoosePolicy<'_>>,
) -> Result<Properties> {
    let Some(choose) = choose else {
        return Ok(select(&checkpoint.properties));
    };
    let mut earlier = present.clone();
    earlier.properties = checkpoint.properties.clone();
    let (ours, theirs) = (recorded_policy(present)?, recorded_policy(&earlier)?);
    Ok(match choose(&ours, &theirs) {
        chosen if chosen == ours => select(&present.properties),
        chosen if chosen == theirs => select(&checkpoint.properties),
        chosen => replacement(&chosen),
    })
}

async fn restore_behind_gateway(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    instance: &Instance,
    checkpoint: &Checkpoint,
    choose: Option<ChoosePolicy<'_>>,
) -> Result<()> {
    let (name, label) = (&instance.name, &checkpoint.label);
    let present = select(&instance.properties);
    if present == policy_after(instance, checkpoint, choose)? {
        // Check before the restore that the gateway is running.
        gateway::end_lease(backend, gateway, name).await?;
    } else {
        let change = |present: &Instance| policy_after(present, checkpoint, choose);
        gateway::change(backend, gateway, name, &change).await?;
    }
    let restored = select(&backend.get(name).await?.properties);
    if let Err(error) = backend.restore(name, label).await {
        backend.set_properties(name, &present).await?;
        gateway::reconcile(backend, gateway).await?;
        return Err(error);
    }
    if restored != select(&checkpoint.properties) {
        backend.set_properties(name, &restored).await?;
    }
    // Another pixel may now have the address recorded in the checkpoint.
    gateway::admit(backend, gateway, name).await
}

/// The disk of the checkpoint contains its policy.
async fn restore_with_guest_policy(
    backend: &dyn Backend,
    network: &Network,
    instance: &Instance,
    checkpoint: &Checkpoint,
    choose: Option<ChoosePolicy<'_>>,
) -> Result<()> {
    let (name, label) = (&instance.name, &checkpoint.label);
    let restored = policy_after(instance, checkpoint, choose)?;
    if restored == select(&checkpoint.properties) {
        backend.restore(name, label).await?;
        return match backend.get(name).await?.status {
            Status::Running => network.ensure_enforced(backend, name).await,
            _ => Ok(()),
        };
    }
    if !checkpoint.properties.contains_key(guest_policy::KEY) {
        return Err(Error::Unsupported {
            operation: format!("restoring {label} under another policy"),
            reason: "the pixel enforces its policy itself, and the checkpoint is older than the \
                     policy"
                .into(),
        });
    }
    // The pixel must not boot with the policy of the checkpoint.
    let is_running = instance.status == Status::Running;
    let stops = is_running && backend.can_access_stopped_files();
    if stops {
        backend.stop(name, GRACE).await?;
    }
    backend.restore(name, label).await?;
    let current = backend.get(name).await?;
    apply_change(backend, network, &current, &|_| Ok(restored.clone())).await?;
    match stops {
        true => network.start(backend, name).await,
        false => Ok(()),
    }
}
