//! Restores a checkpoint with its policy.

use std::time::Duration;

use super::checkpoint::find_checkpoint;
use super::gateway::{self, GatewaySpec, Replaced};
use super::guest_policy::{self, GuestPolicy};
use super::network::Network;
use super::policy_properties::{recorded_policy, replacement, select, select_keys};
use super::{creator, expiry, provisioning};
use crate::egress::{KEY, Policy, presets};
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
/// Behind a gateway, the narrower of the present policy and the one after the restore
/// is in force while the disk is restored, because both the present disk and that of
/// the checkpoint may run. If the policy after the restore is not that of the
/// checkpoint, a running pixel is killed before the restore and started after it. If
/// restoring the disk fails, the previous policy is applied again.
///
/// If this future is dropped or fails later, the policy of the checkpoint or the one
/// during the restore may be recorded instead of the policy that `choose` returns.
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
        ref network @ Network::External(ref guest_policy) => {
            restore.with_guest_policy(network, guest_policy).await
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
        match self.choose {
            Some(choose) => self.policy(present, choose),
            None => Ok(self.checkpoint_policy()),
        }
    }

    /// The policy properties while the disk is restored.
    fn policy_during(&self, present: &Instance) -> Result<Properties> {
        self.policy(present, &|ours, theirs| match self.choose {
            Some(choose) => ours.narrower(&choose(ours, theirs), presets()),
            None => ours.narrower(theirs, presets()),
        })
    }

    fn policy(&self, present: &Instance, choose: ChoosePolicy<'_>) -> Result<Properties> {
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
        let replaced = if select(&self.instance.properties) == self.policy_during(self.instance)? {
            // Check before the restore that the gateway is running.
            gateway::end_lease(backend, gateway, name).await?;
            Replaced::default()
        } else {
            let change = |present: &Instance| self.policy_during(present);
            gateway::change(backend, gateway, name, &change).await?
        };
        let checkpoint_policy = self.checkpoint_policy();
        let attempt = async {
            let mut current = backend.get(name).await?;
            // The restore writes the policy of the checkpoint into the record, and
            // another command may apply that policy before the record is replaced. The
            // pixel must not run in between.
            let stops = self.policy_after(&current)? != checkpoint_policy
                && current.status != Status::Stopped;
            if stops {
                backend.stop(name, Duration::ZERO).await?;
                // Another command may have changed the policy.
                current = backend.get(name).await?;
            }
            let after = self.policy_after(&current)?;
            self.restore_disk().await?;
            Ok((after, stops))
        };
        let (after, stops) = match attempt.await {
            Ok(done) => done,
            Err(error) => {
                if let Err(other) = self.undo(gateway, &replaced).await {
                    tracing::warn!("cannot undo the change of the policy of {name}: {other}");
                }
                return Err(error);
            }
        };
        if after != checkpoint_policy {
            // Unless another command has changed it since.
            let change = |pixel: &Instance| {
                let found = select(&pixel.properties);
                Ok(match found == checkpoint_policy {
                    true => after.clone(),
                    false => found,
                })
            };
            gateway::change(backend, gateway, name, &change).await?;
        }
        // Another pixel may now have the address recorded in the checkpoint.
        gateway::admit(backend, gateway, name).await?;
        match stops {
            true => backend.start(name).await,
            false => Ok(()),
        }
    }

    /// Applies the policy before the restore again, and starts a pixel that ran. Does
    /// not start it if the disk may have been restored.
    async fn undo(&self, gateway: &GatewaySpec, replaced: &Replaced) -> Result<()> {
        let name = &self.instance.name;
        gateway::undo_change(self.backend, gateway, name, replaced).await?;
        let found = select(&self.backend.get(name).await?.properties);
        match self.instance.status {
            Status::Running if found == select(&self.instance.properties) => {
                self.backend.start(name).await
            }
            _ => Ok(()),
        }
    }

    /// The disk of the checkpoint contains its policy.
    async fn with_guest_policy(&self, network: &Network, guest_policy: &GuestPolicy) -> Result<()> {
        let (backend, name) = (self.backend, &self.instance.name);
        let restored = self.policy_after(self.instance)?;
        if restored == self.checkpoint_policy() {
            self.restore_disk().await?;
            return match backend.get(name).await?.status {
                Status::Running => network.ensure_enforced(backend, name).await,
                _ => Ok(()),
            };
        }
        // The pixel must not boot with the policy of the checkpoint.
        let obstacle = if !self.checkpoint.properties.contains_key(guest_policy::KEY) {
            Some("the checkpoint is older than the policy")
        } else if !backend.can_access_stopped_files() {
            Some("this server gives no access to the files of a stopped pixel")
        } else {
            None
        };
        if let Some(obstacle) = obstacle {
            return Err(Error::Unsupported {
                operation: format!("restoring {} under another policy", self.checkpoint.label),
                reason: format!("the pixel enforces its policy itself, and {obstacle}").into(),
            });
        }
        let stops = self.instance.status == Status::Running;
        if stops {
            backend.stop(name, GRACE).await?;
        }
        if let Err(error) = self.restore_disk().await {
            let found = select(&backend.get(name).await?.properties);
            // Otherwise the disk may have been restored.
            if stops
                && found == select(&self.instance.properties)
                && let Err(other) = network.start(backend, name).await
            {
                tracing::warn!("cannot start {name} again: {other}");
            }
            return Err(error);
        }
        // If this fails, the next start writes the files.
        let mut after = self.instance.clone();
        after.properties = self.checkpoint.properties.clone();
        after.properties.extend(restored);
        after.properties.retain(|_, value| !value.is_empty());
        let pending = guest_policy.pending_properties(&after)?;
        after.properties.extend(pending);
        let keys = [KEY, guest_policy::KEY];
        backend
            .set_properties(name, &select_keys(&after.properties, keys))
            .await?;
        guest_policy
            .refresh_files(backend, &backend.get(name).await?)
            .await?;
        match stops {
            true => network.start(backend, name).await,
            false => Ok(()),
        }
    }
}
