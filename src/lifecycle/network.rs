//! How pixels are joined to the network: on one of the user's, where policies
//! are enforced inside them, or behind a gateway that does it.

use std::time::Duration;

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::gateway::{self, GatewaySpec};
use super::guest_policy::{self, GuestPolicy};
use super::{Error, Progress, expiry, unless_cancelled};
use crate::egress::gateway::ADDRESS;
use crate::egress::{self, Denial, Policy};
use crate::model::{self, Attachment, Backend, Instance, Label, Name, Properties, Result, Status};

/// Where new pixels are put.
#[derive(Debug, Clone)]
pub enum Network {
    /// On the network of the settings; nothing outside the pixel enforces a policy.
    External(GuestPolicy),
    Gateway(GatewaySpec),
}

impl Network {
    pub(super) fn attachment(&self) -> Attachment {
        match self {
            Self::External(_) => Attachment::Default,
            Self::Gateway(gateway) => Attachment::IsolatedBridge(gateway.bridge.clone()),
        }
    }

    /// What a new pixel's record says of its place.
    pub(super) fn record_address(&self, properties: &mut Properties) {
        if let Self::Gateway(gateway) = self {
            properties.insert(ADDRESS.into(), gateway::random_address(gateway));
        }
    }

    /// Sees to it that pixels can be put there.
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

    /// Makes the disk of a new pixel, before its first start, fit for its place.
    pub(super) async fn prepare(
        &self,
        backend: &dyn Backend,
        name: &Name,
        clone: bool,
    ) -> Result<()> {
        match self {
            Self::External(inside) => inside.prepare(backend, name, clone).await,
            // A policy that its source has inside would stay when this is changed.
            Self::Gateway(_)
                if clone && guest_policy::has_guest_policy(&backend.get(name).await?) =>
            {
                guest_policy::clear(backend, name).await
            }
            Self::Gateway(_) => Ok(()),
        }
    }

    /// Starts a new pixel and puts its policy into force, side by side: until
    /// that is done the gateway lets nothing of it through. Without a gateway,
    /// the policy is in force first or there is no network.
    pub(super) async fn start(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        match self {
            Self::External(inside) => {
                backend.start(name).await?;
                inside.ensure_enforced(backend, name).await
            }
            Self::Gateway(gateway) => {
                let admission = gateway::admit(backend, gateway, name);
                tokio::try_join!(backend.start(name), admission).map(drop)
            }
        }
    }

    /// Takes what is no longer on the server out of force. Best effort: an
    /// entry without its pixel lets nobody through.
    pub(super) async fn reconcile(&self, backend: &dyn Backend) {
        if let Self::Gateway(gateway) = self
            && let Err(error) = gateway::reconcile(backend, gateway).await
        {
            tracing::debug!(%error, "gateway");
        }
    }

    fn of_instance(instance: &Instance, gateway_spec: &GatewaySpec) -> Self {
        match &instance.isolated_bridge {
            None => Self::External(GuestPolicy {
                dns: gateway_spec.dns.clone(),
            }),
            Some(bridge) => Self::Gateway(gateway_spec.for_bridge(bridge)),
        }
    }
}

/// Starts a pixel, and its gateway where that does not run. Already running
/// counts as done. `like`: how a gateway is made that is missing.
pub async fn start(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway_spec: &GatewaySpec,
    name: &Name,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let instance = unless_cancelled(cancel, backend.get(name)).await?;
    let network = Network::of_instance(&instance, gateway_spec);
    network.ensure(backend, cancel, progress).await?;
    progress("starting");
    let work = async {
        if let Network::External(inside) = &network {
            inside.refresh_files(backend, &instance).await?;
        }
        network.start(backend, name).await
    };
    let Err(source) = unless_cancelled(cancel, work).await else {
        return Ok(());
    };
    let mut leftovers = Vec::new();
    // Nobody knows what it may reach now.
    if guest_policy::has_guest_policy(&instance)
        && instance.status == Status::Stopped
        && let Err(error) = backend.stop(name, GRACE).await
    {
        leftovers.push(format!(
            "pixel {:?}, which may run without its policy ({error}); stop it with: pixels stop {name}",
            name.as_str()
        ));
    }
    Err(Error { source, leftovers })
}

/// For a pixel to shut down that cannot be kept to its policy.
const GRACE: Duration = Duration::from_secs(10);

/// Destroys a pixel and takes it out of its gateway.
pub async fn destroy(backend: &dyn Backend, gateway_spec: &GatewaySpec, name: &Name) -> Result<()> {
    let network = Network::of_instance(&backend.get(name).await?, gateway_spec);
    backend.destroy(name).await?;
    network.reconcile(backend).await;
    Ok(())
}

/// Puts a pixel back to a checkpoint, policy included: that of the checkpoint
/// is in force before the disk is, and when that fails, the present one again.
/// How long it lives stays as it is.
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
        Network::External(inside) => {
            // The policy is on the disk, and its record comes back with it.
            backend.restore(name, label).await?;
            return match backend.get(name).await?.status {
                Status::Running => inside.ensure_enforced(backend, name).await,
                _ => Ok(()),
            };
        }
    };
    let checkpoints = backend.checkpoints(name).await?;
    let Some(checkpoint) = checkpoints.iter().find(|found| found.label == *label) else {
        return Err(model::Error::NotFound(model::Subject::checkpoint(
            name, label,
        )));
    };
    let of = |properties| Properties::from(RECORDS.map(|key| record_of(properties, key)));
    let (now, then) = (of(&instance.properties), of(&checkpoint.properties));
    if now == then {
        // Found out when the disk has gone back it would be too late.
        gateway::require(backend, &gateway).await?;
    } else {
        let records = |_: &Instance| Ok(then.clone());
        gateway::change(backend, &gateway, name, &records).await?;
    }
    if let Err(error) = backend.restore(name, label).await {
        if now != then {
            backend.set_properties(name, &now).await?;
            gateway::reconcile(backend, &gateway).await?;
        }
        return Err(error);
    }
    // The checkpoint may speak of an address that is somebody else's by now.
    gateway::admit(backend, &gateway, name).await
}

const RECORDS: [&str; 2] = [egress::KEY, egress::INTERIM];

/// Why a policy was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The change makes no sense for the policy there is.
    #[error(transparent)]
    Policy(#[from] egress::ChangeError),
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Changes a policy, on record and in force. When that fails, the one before
/// stays. Behind a gateway, changes that several commands make at the same
/// time are made one after the other and none is lost.
pub async fn change_policy(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway_spec: &GatewaySpec,
    name: &Name,
    change: &(dyn Fn(&mut Policy) -> Result<(), egress::ChangeError> + Sync),
) -> Result<(), ChangeError> {
    let instance = unless_cancelled(cancel, backend.get(name))
        .await
        .map_err(Error::from)?;
    let network = Network::of_instance(&instance, gateway_spec);
    network.ensure(backend, cancel, &|_| {}).await?;
    let refused = Mutex::new(None);
    let records = |instance: &Instance| {
        let mut policy = policy(instance)?;
        if let Err(error) = change(&mut policy) {
            let reason = error.to_string();
            *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            return Err(model::Error::Invalid(reason));
        }
        Ok(Properties::from([
            (egress::KEY.to_owned(), policy.to_record()),
            (egress::INTERIM.to_owned(), String::new()),
        ]))
    };
    let outcome = apply_records(backend, &network, &instance, &records).await;
    match refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(outcome.map_err(Error::from)?),
    }
}

/// Ends what was allowed for the time of provisioning. A pixel that is
/// provisioned no longer has anything to end.
pub async fn end_interim_policy(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    name: &Name,
) -> Result<()> {
    let instance = backend.get(name).await?;
    if !is_interim(&instance) {
        return Ok(());
    }
    let network = Network::of_instance(&instance, gateway_spec);
    let records = |_: &Instance| {
        let nothing = (egress::INTERIM.to_owned(), String::new());
        Ok(Properties::from([nothing]))
    };
    apply_records(backend, &network, &instance, &records).await
}

/// Whether more is allowed than the policy says, for the time of provisioning.
pub fn is_interim(instance: &Instance) -> bool {
    instance.properties.contains_key(egress::INTERIM)
}

/// On record, then into force; back when that fails.
async fn apply_records(
    backend: &dyn Backend,
    network: &Network,
    instance: &Instance,
    records: &(dyn Fn(&Instance) -> Result<Properties> + Sync),
) -> Result<()> {
    let name = &instance.name;
    let inside = match network {
        Network::Gateway(gateway) => return gateway::change(backend, gateway, name, records).await,
        Network::External(inside) => inside,
    };
    let mut records = records(instance)?;
    let mut changed = instance.clone();
    changed.properties.extend(records.clone());
    changed.properties.retain(|_, value| !value.is_empty());
    records.extend(inside.records(&changed)?);
    let before = records
        .keys()
        .map(|key| record_of(&instance.properties, key))
        .collect();
    backend.set_properties(name, &records).await?;
    if let Err(error) = inside.sync_until_stable(backend, name).await {
        backend.set_properties(name, &before).await?;
        // Also where it failed halfway. It may fail for the same reason.
        if let Err(second) = inside.sync_until_stable(backend, name).await {
            tracing::debug!(%second, "going back to the policy before");
        }
        return Err(error);
    }
    Ok(())
}

/// Absent is empty, which removes the key where it is written.
fn record_of(properties: &Properties, key: &str) -> (String, String) {
    let value = properties.get(key).cloned().unwrap_or_default();
    (key.to_owned(), value)
}

/// The policy on a pixel's record.
pub fn policy(instance: &Instance) -> Result<Policy> {
    let record = instance.properties.get(egress::KEY).map(String::as_str);
    parse_policy(instance, record)
}

pub(super) fn parse_policy(instance: &Instance, record: Option<&str>) -> Result<Policy> {
    Policy::from_record(record)
        .map_err(|e| model::Error::Protocol(format!("pixel {:?}: {e}", instance.name.as_str())))
}

/// What keeps a pixel to its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcer {
    /// Something outside the pixel, which root inside cannot lift.
    Gateway,
    /// The pixel itself, where only its root can.
    Pixel,
    /// Nothing: the policy is unrestricted, and so is the network.
    None,
}

impl Enforcer {
    pub fn of_instance(instance: &Instance) -> Self {
        match &instance.isolated_bridge {
            Some(_) => Self::Gateway,
            None if guest_policy::has_guest_policy(instance) => Self::Pixel,
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

/// Whether a running pixel that enforces its policy itself does so; `None` for
/// all others.
pub async fn is_enforced(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
) -> Result<Option<bool>> {
    match Network::of_instance(pixel, gateway_spec) {
        Network::External(inside)
            if guest_policy::has_guest_policy(pixel) && pixel.status == Status::Running =>
        {
            Ok(Some(inside.is_enforced(backend, pixel).await?))
        }
        _ => Ok(None),
    }
}

/// What was refused to a pixel, the latest first.
pub async fn denials(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
) -> Result<Vec<Denial>> {
    match Enforcer::of_instance(pixel) {
        Enforcer::Gateway => gateway::denials(backend, gateway_spec, pixel).await,
        Enforcer::Pixel => guest_policy::denials(backend, &pixel.name).await,
        Enforcer::None => Err(model::Error::Unsupported {
            operation: format!("the log of pixel {:?}", pixel.name.as_str()),
            reason: "its policy is unrestricted and its network its own: nothing is refused to it"
                .into(),
        }),
    }
}
