//! How pixels are joined to the network: openly, on a network of the user's,
//! or behind a gateway that enforces their policies.

use tokio_util::sync::CancellationToken;

use super::gateway::{self, Gateway};
use super::{Error, Progress, unless_cancelled};
use crate::egress::gateway::ADDRESS;
use crate::egress::{self, Policy};
use crate::sandbox::{self, Attachment, Instance, Label, Name, Properties, Result, Sandbox};

/// Where new pixels are put.
#[derive(Debug, Clone)]
pub enum Network {
    /// On the network of the settings; nothing outside the pixel enforces a policy.
    Open,
    Behind(Gateway),
}

impl Network {
    pub(super) fn attachment(&self) -> Attachment {
        match self {
            Self::Open => Attachment::Configured,
            Self::Behind(gateway) => Attachment::Segment(gateway.segment.clone()),
        }
    }

    /// What a new pixel's record says of its place.
    pub(super) fn mark(&self, properties: &mut Properties) {
        if let Self::Behind(gateway) = self {
            properties.insert(ADDRESS.into(), gateway::propose(gateway));
        }
    }

    /// Sees to it that pixels can be put there.
    pub(super) async fn ready(
        &self,
        sandbox: &dyn Sandbox,
        cancel: &CancellationToken,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        match self {
            Self::Open => Ok(()),
            Self::Behind(gateway) => gateway::ensure(sandbox, cancel, gateway, progress).await,
        }
    }

    /// Starts a new pixel and puts its policy into force, side by side: until
    /// that is done the gateway lets nothing of it through.
    pub(super) async fn start(&self, sandbox: &dyn Sandbox, name: &Name) -> Result<()> {
        match self {
            Self::Open => sandbox.start(name).await,
            Self::Behind(gateway) => {
                let admission = gateway::admit(sandbox, gateway, name);
                tokio::try_join!(sandbox.start(name), admission).map(drop)
            }
        }
    }

    /// Takes what is no longer on the server out of force. Best effort: an
    /// entry without its pixel lets nobody through.
    pub(super) async fn forget(&self, sandbox: &dyn Sandbox) {
        if let Self::Behind(gateway) = self
            && let Err(error) = gateway::reconcile(sandbox, gateway).await
        {
            tracing::debug!(%error, "gateway");
        }
    }

    fn of(instance: &Instance, like: &Gateway) -> Self {
        match &instance.segment {
            None => Self::Open,
            Some(segment) => Self::Behind(like.of(segment)),
        }
    }
}

/// Starts a pixel, and its gateway where that does not run. Already running
/// counts as done. `like`: how a gateway is made that is missing.
pub async fn start(
    sandbox: &dyn Sandbox,
    cancel: &CancellationToken,
    like: &Gateway,
    name: &Name,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let instance = unless_cancelled(cancel, sandbox.get(name)).await?;
    let network = Network::of(&instance, like);
    network.ready(sandbox, cancel, progress).await?;
    progress("starting");
    Ok(unless_cancelled(cancel, network.start(sandbox, name)).await?)
}

/// Destroys a pixel and takes it out of its gateway.
pub async fn destroy(sandbox: &dyn Sandbox, like: &Gateway, name: &Name) -> Result<()> {
    let network = Network::of(&sandbox.get(name).await?, like);
    sandbox.destroy(name).await?;
    network.forget(sandbox).await;
    Ok(())
}

/// Puts a pixel back to a checkpoint, policy included: that of the checkpoint
/// is in force before the disk is, and when that fails, the present one again.
pub async fn restore(
    sandbox: &dyn Sandbox,
    like: &Gateway,
    name: &Name,
    label: &Label,
) -> Result<()> {
    let instance = sandbox.get(name).await?;
    let Network::Behind(gateway) = Network::of(&instance, like) else {
        return sandbox.restore(name, label).await;
    };
    let checkpoints = sandbox.checkpoints(name).await?;
    let Some(checkpoint) = checkpoints.iter().find(|found| found.label == *label) else {
        return Err(sandbox::Error::NotFound(sandbox::Subject::checkpoint(
            name, label,
        )));
    };
    let of = |properties| Properties::from(RECORDS.map(|key| record(properties, key)));
    let (now, then) = (of(&instance.properties), of(&checkpoint.properties));
    if now != then {
        sandbox.set_properties(name, &then).await?;
        gateway::reconcile(sandbox, &gateway).await?;
    }
    if let Err(error) = sandbox.restore(name, label).await {
        if now != then {
            sandbox.set_properties(name, &now).await?;
            gateway::reconcile(sandbox, &gateway).await?;
        }
        return Err(error);
    }
    // The checkpoint may speak of an address that is somebody else's by now.
    gateway::admit(sandbox, &gateway, name).await
}

const RECORDS: [&str; 2] = [egress::KEY, egress::INTERIM];

/// Puts a policy on record and into force. When that fails, the one before
/// stays.
pub async fn set_policy(
    sandbox: &dyn Sandbox,
    cancel: &CancellationToken,
    like: &Gateway,
    instance: &Instance,
    policy: &Policy,
) -> Result<(), Error> {
    let network = Network::of(instance, like);
    if matches!(network, Network::Open) {
        return Err(unenforced(policy).into());
    }
    network.ready(sandbox, cancel, &|_| {}).await?;
    let records = Properties::from([
        (egress::KEY.to_owned(), policy.to_record()),
        (egress::INTERIM.to_owned(), String::new()),
    ]);
    Ok(put(sandbox, &network, instance, &records).await?)
}

/// Ends what was allowed for the time of provisioning. A pixel that is
/// provisioned no longer has anything to end.
pub async fn narrow(sandbox: &dyn Sandbox, like: &Gateway, name: &Name) -> Result<()> {
    let instance = sandbox.get(name).await?;
    if !is_interim(&instance) {
        return Ok(());
    }
    let network = Network::of(&instance, like);
    let records = Properties::from([(egress::INTERIM.to_owned(), String::new())]);
    put(sandbox, &network, &instance, &records).await
}

/// Whether more is allowed than the policy says, for the time of provisioning.
pub fn is_interim(instance: &Instance) -> bool {
    instance.properties.contains_key(egress::INTERIM)
}

/// On record, then into force; back when that fails.
async fn put(
    sandbox: &dyn Sandbox,
    network: &Network,
    instance: &Instance,
    records: &Properties,
) -> Result<()> {
    let before = records
        .keys()
        .map(|key| record(&instance.properties, key))
        .collect();
    sandbox.set_properties(&instance.name, records).await?;
    let Network::Behind(gateway) = network else {
        return Ok(());
    };
    if let Err(error) = gateway::reconcile(sandbox, gateway).await {
        sandbox.set_properties(&instance.name, &before).await?;
        return Err(error);
    }
    Ok(())
}

/// Absent is empty, which removes the key where it is written.
fn record(properties: &Properties, key: &str) -> (String, String) {
    let value = properties.get(key).cloned().unwrap_or_default();
    (key.to_owned(), value)
}

/// The policy on a pixel's record.
pub fn policy(instance: &Instance) -> Result<Policy> {
    let record = instance.properties.get(egress::KEY).map(String::as_str);
    Policy::from_record(record)
        .map_err(|e| sandbox::Error::Protocol(format!("pixel {:?}: {e}", instance.name.as_str())))
}

/// A policy must not look as if it were in force.
pub fn unenforced(policy: &Policy) -> sandbox::Error {
    sandbox::Error::Unsupported {
        operation: format!("egress mode {:?} on this network", policy.mode.as_str()),
        reason: "policies are enforced by a gateway, and defaults.network, defaults.parent or \
                 network.placement puts pixels elsewhere"
            .into(),
    }
}
