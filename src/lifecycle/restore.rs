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
/// Time to shut down before a restore of a pixel that enforces another policy itself.
const GRACE: Duration = Duration::from_secs(10);

/// Returns the policy after a restore, from the present policy and that of the
/// checkpoint.
pub type ChoosePolicy<'a> = &'a (dyn Fn(&Policy, &Policy) -> Policy + Sync);

/// Restores a checkpoint. The pixel gets the policy that `choose` returns, by
/// default that of the checkpoint. Keeps the current expiry of the pixel, and
/// whether the pixel is complete. Ends a provisioning lease.
///
/// Behind a gateway, the policy is applied before the disk is restored. If this
/// policy is not that of the checkpoint, a running pixel is killed before the restore
/// and started after it. If restoring the disk fails, the previous policy is applied
/// again.
pub async fn restore(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    name: &Name,
    label: &Label,
    choose: Option<ChoosePolicy<'_>>,
) -> Result<()> {
    let instance = backend.get(name).await?;
    let checkpoint = find_checkpoint(backend, name, label).await?;
    let restore = Restore {
        backend,
        instance: &instance,
        checkpoint: &checkpoint,
        choose,
    };
    let outcome = match Network::of_instance(&instance, gateway_spec) {
        Network::Gateway(gateway) => restore.behind_gateway(&gateway).await,
        network @ Network::External(_) => restore.with_guest_policy(&network).await,
    };
    restore_marks(backend, &instance).await?;
    outcome
}

/// Sets the properties that a restore keeps to those of `before`.
pub(super) async fn restore_marks(backend: &dyn Backend, before: &Instance) -> Result<()> {
    let kept = select_keys(&before.properties, KEPT);
    backend.set_properties(&before.name, &kept).await
}

struct Restore<'a> {
    backend: &'a dyn Backend,
    /// The pixel before the restore.
    instance: &'a Instance,
    checkpoint: &'a Checkpoint,
    choose: Option<ChoosePolicy<'a>>,
}

impl Restore<'_> {
    /// The policy properties of the checkpoint.
    fn checkpoint_policy(&self) -> Properties {
        select(&self.checkpoint.properties)
    }

    /// The policy properties after the restore of a pixel.
    fn policy_after(&self, present: &Instance) -> Result<Properties> {
        let Some(choose) = self.choose else {
            return Ok(self.checkpoint_policy());
        };
        let mut earlier = present.clone();
        earlier.properties = self.checkpoint.properties.clone();
        let (ours, theirs) = (recorded_policy(present)?, recorded_policy(&earlier)?);
        Ok(match choose(&ours, &theirs) {
            chosen if chosen == ours => select(&present.properties),
            chosen if chosen == theirs => self.checkpoint_policy(),
            chosen => replacement(&chosen),
        })
    }

    async fn restore_disk(&self) -> Result<()> {
        let (name, label) = (&self.instance.name, &self.checkpoint.label);
        self.backend.restore(name, label).await
    }

    async fn behind_gateway(&self, gateway: &GatewaySpec) -> Result<()> {
        let (backend, name) = (self.backend, &self.instance.name);
        let present = select(&self.instance.properties);
        if present == self.policy_after(self.instance)? {
            // Check before the restore that the gateway is running.
            gateway::end_lease(backend, gateway, name).await?;
        } else {
            let change = |present: &Instance| self.policy_after(present);
            gateway::change(backend, gateway, name, &change).await?;
        }
        let attempt = async {
            let current = backend.get(name).await?;
            let restored = select(&current.properties);
            // The restore writes the policy of the checkpoint into the record, and
            // another command may apply that policy before the record is replaced. The
            // pixel must not run in between.
            let is_replaced = restored != self.checkpoint_policy();
            let stops = is_replaced && current.status != Status::Stopped;
            if stops {
                backend.stop(name, Duration::ZERO).await?;
            }
            self.restore_disk().await?;
            Ok((is_replaced.then_some(restored), stops))
        };
        let (replaced, stops) = match attempt.await {
            Ok(done) => done,
            Err(error) => {
                if let Err(other) = self.undo(gateway, &present).await {
                    tracing::warn!("cannot undo the change of the policy of {name}: {other}");
                }
                return Err(error);
            }
        };
        if let Some(restored) = replaced {
            backend.set_properties(name, &restored).await?;
        }
        // Another pixel may now have the address recorded in the checkpoint.
        gateway::admit(backend, gateway, name).await?;
        match stops {
            true => backend.start(name).await,
            false => Ok(()),
        }
    }

    /// Applies the policy before the restore again, and starts a pixel that ran.
    async fn undo(&self, gateway: &GatewaySpec, present: &Properties) -> Result<()> {
        let name = &self.instance.name;
        self.backend.set_properties(name, present).await?;
        gateway::reconcile(self.backend, gateway).await?;
        match self.instance.status {
            Status::Running => self.backend.start(name).await,
            _ => Ok(()),
        }
    }

    /// The disk of the checkpoint contains its policy.
    async fn with_guest_policy(&self, network: &Network) -> Result<()> {
        let (backend, name) = (self.backend, &self.instance.name);
        let restored = self.policy_after(self.instance)?;
        if restored == self.checkpoint_policy() {
            self.restore_disk().await?;
            return match backend.get(name).await?.status {
                Status::Running => network.ensure_enforced(backend, name).await,
                _ => Ok(()),
            };
        }
        if !self.checkpoint.properties.contains_key(guest_policy::KEY) {
            return Err(Error::Unsupported {
                operation: format!("restoring {} under another policy", self.checkpoint.label),
                reason: "the pixel enforces its policy itself, and the checkpoint is older than \
                         the policy"
                    .into(),
            });
        }
        // The pixel must not boot with the policy of the checkpoint.
        let is_running = self.instance.status == Status::Running;
        let stops = is_running && backend.can_access_stopped_files();
        if stops {
            backend.stop(name, GRACE).await?;
        }
        self.restore_disk().await?;
        let current = backend.get(name).await?;
        apply_change(backend, network, &current, &|_| Ok(restored.clone())).await?;
        match stops {
            true => network.start(backend, name).await,
            false => Ok(()),
        }
    }
}
