//! Applies policies and addresses recorded on the server to a gateway.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;
use std::time::Duration;

use super::{DNS, GatewaySpec, HOST, Health};
use crate::egress;
use crate::egress::gateway::{
    self as egress_gateway, DesiredState, LeaseChange, PixelRecord, Subnet,
};
use crate::lifecycle::policy_properties::select_keys;
use crate::model::{Backend, Error, Instance, Name, Properties, Result, Status, Subject};

/// Number of addresses tried for a pixel before conflicts are an error.
const ATTEMPTS: usize = 5;

/// Reads the recorded policies and applies them, with the gateway's lock held.
/// Idempotent.
pub async fn reconcile(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    let read = |_, _| all_records(backend, gateway);
    apply_locked(backend, gateway, LeaseChange::None, read).await
}

/// Like [`reconcile`], after setting the properties that `change` returns on a
/// pixel. `change` gets the instance as read with the lock held, so that
/// concurrent changes are not lost. Ends the provisioning lease of the pixel. If the
/// policies cannot be applied, restores the previous properties. Returns what it
/// replaced.
///
/// The records of the other pixels are those that the gateway has applied, if it
/// knows them: reading all from the server takes as long as all the rest if there
/// are hundreds. A pixel that is not among them yet gets its network when it is
/// started.
pub async fn change(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    name: &Name,
    change: &(dyn Fn(&Instance) -> Result<Properties> + Sync),
) -> Result<Replaced> {
    let mut change_made = None;
    let made = &mut change_made;
    let set = move |_, applied: Option<Vec<PixelRecord>>| async move {
        let (mut pixel, names) = tokio::try_join!(backend.get(name), backend.names())?;
        let properties = change(&pixel)?;
        let keys = properties.keys().map(String::as_str);
        let previous = select_keys(&pixel.properties, keys);
        *made = Some(Replaced {
            previous,
            current: properties.clone(),
        });
        let Some(mut records) = applied else {
            backend.set_properties(name, &properties).await?;
            return all_records(backend, gateway).await;
        };
        pixel.properties.extend(properties.clone());
        pixel.properties.retain(|_, value| !value.is_empty());
        records.retain(|record| record.name != *name && names.contains(&record.name));
        records.extend(PixelRecord::from_instance(&pixel, &gateway.bridge));
        Ok(Update {
            pixels: records,
            properties: Some((name, properties)),
        })
    };
    let outcome = apply_locked(backend, gateway, LeaseChange::End(name), set).await;
    let replaced = change_made.unwrap_or_default();
    match outcome {
        Ok(()) => Ok(replaced),
        Err(error) => {
            undo_change(backend, gateway, name, &replaced).await?;
            Err(error)
        }
    }
}

/// Properties of a pixel before and after a change.
#[derive(Debug, Default)]
pub struct Replaced {
    previous: Properties,
    current: Properties,
}

/// Restores the previous properties and applies them, because the gateway may have
/// applied a change that failed for the client. Leaves a later change by another
/// client. If the gateway cannot apply policies, only restores the properties.
pub async fn undo_change(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    name: &Name,
    replaced: &Replaced,
) -> Result<()> {
    let restore = async || {
        if replaced.current.is_empty() {
            return Ok(());
        }
        let pixel = backend.get(name).await?;
        let keys = replaced.current.keys().map(String::as_str);
        let found = select_keys(&pixel.properties, keys);
        // The server may still set the properties of a request that seemed to fail.
        if found == replaced.current || found == replaced.previous {
            backend.set_properties(name, &replaced.previous).await?;
        }
        Ok::<(), Error>(())
    };
    let restore = &restore;
    let mut is_restored = false;
    let restored = &mut is_restored;
    let restore_and_read = move |_, _| async move {
        restore().await?;
        *restored = true;
        all_records(backend, gateway).await
    };
    let outcome = apply_locked(backend, gateway, LeaseChange::None, restore_and_read).await;
    match outcome {
        Err(_) if !is_restored => restore().await,
        Err(error) => {
            tracing::debug!(%error, "cannot apply the previous policy");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Like [`reconcile`], after ensuring that the address of this pixel is unique.
/// Before that, the gateway forwards no packets of the pixel.
pub async fn admit(backend: &dyn Backend, gateway: &GatewaySpec, name: &Name) -> Result<()> {
    let assign = |subnet, _| assign_unique_address(backend, gateway, subnet, name);
    apply_locked(backend, gateway, LeaseChange::None, assign).await
}

/// Like [`reconcile`], and begins the provisioning lease of a pixel or restarts
/// its time.
pub async fn begin_lease(backend: &dyn Backend, gateway: &GatewaySpec, name: &Name) -> Result<()> {
    let change = LeaseChange::Begin(name);
    let read = |_, _| all_records(backend, gateway);
    apply_locked(backend, gateway, change, read).await
}

/// Like [`reconcile`], and ends the provisioning lease of a pixel.
pub async fn end_lease(backend: &dyn Backend, gateway: &GatewaySpec, name: &Name) -> Result<()> {
    let change = LeaseChange::End(name);
    let read = |_, _| all_records(backend, gateway);
    apply_locked(backend, gateway, change, read).await
}

/// Returns the provisioning leases of the pixels behind a gateway by address,
/// with the remaining times. A gateway that is not running, or stops during the
/// request, has none.
pub async fn leases(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
) -> Result<BTreeMap<String, Duration>> {
    if !is_running(backend, gateway).await? {
        return Ok(BTreeMap::new());
    }
    match egress::lease::leases(&*backend.guest(&gateway.name)).await {
        Err(_) if !is_running(backend, gateway).await? => Ok(BTreeMap::new()),
        outcome => outcome,
    }
}

/// Whether the gateway is complete and running, by the server's records.
pub async fn is_running(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<bool> {
    let health = super::recorded_health(backend, gateway).await?;
    Ok(matches!(health, Health::Good { .. }))
}

/// A random address for a new pixel. [`admit`] replaces an address in use.
pub fn random_address(gateway: &GatewaySpec) -> String {
    let address = gateway.subnet.free(&Default::default(), random());
    address.map(|a| a.to_string()).unwrap_or_default()
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What a command applies.
struct Update<'a> {
    pixels: Vec<PixelRecord>,
    /// Properties of a pixel, set before the policies are applied.
    properties: Option<(&'a Name, Properties)>,
}

impl From<Vec<PixelRecord>> for Update<'_> {
    fn from(pixels: Vec<PixelRecord>) -> Self {
        Self {
            pixels,
            properties: None,
        }
    }
}

async fn all_records<'a>(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<Update<'a>> {
    let instances = backend.list().await?;
    Ok(egress_gateway::records(&instances, &gateway.bridge).into())
}

/// Applies the policies of the pixels that `read` returns under the lock. `read`
/// gets the records of the applied state, if they are known.
async fn apply_locked<'a, F>(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    lease_change: LeaseChange<'_>,
    read: impl FnOnce(Subnet, Option<Vec<PixelRecord>>) -> F,
) -> Result<()>
where
    F: Future<Output = Result<Update<'a>>>,
{
    let instance = require(backend, gateway).await?;
    let subnet = super::subnet(&instance).ok_or_else(|| wrong_state(gateway, "missing"))?;
    let guest = backend.guest(&gateway.name);
    let outcome = egress_gateway::apply_locked(&*guest, async |mut current| {
        let Update { pixels, properties } = read(subnet, current.pixels.take()).await?;
        let dns = match instance.properties.get(DNS) {
            Some(list) => parse_all(list.split(',')),
            None => parse_all(current.dns.iter().map(String::as_str)),
        };
        let recorded = instance.properties.get(HOST).map(String::as_str);
        let mut host_addresses = parse_all(recorded.unwrap_or_default().split(','));
        host_addresses.extend(backend.isolated_network()?.local_addresses());
        let desired = DesiredState {
            subnet,
            pixels: &pixels,
            presets: egress::presets(),
            dns,
            host_addresses,
            current,
            lease_change,
        };
        let record = async move {
            match properties {
                Some((name, properties)) => backend.set_properties(name, &properties).await,
                None => Ok(()),
            }
        };
        Ok((desired.state_files()?, record))
    })
    .await;
    outcome.map_err(|error| attribute_to_gateway(gateway, error))
}

/// Assigns a unique address to a pixel. Returns all records, including the new
/// address.
async fn assign_unique_address<'a>(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    subnet: Subnet,
    name: &Name,
) -> Result<Update<'a>> {
    for _ in 0..ATTEMPTS {
        let instances = backend.list().await?;
        let records = egress_gateway::records(&instances, &gateway.bridge);
        let clients = egress_gateway::clients(&records, subnet);
        if clients.iter().any(|client| client.name == *name) {
            return Ok(records.into());
        }
        if !instances.iter().any(|instance| instance.name == *name) {
            return Err(Error::NotFound(Subject::pixel(name)));
        }
        let address = subnet
            .free(&egress_gateway::allocated_addresses(&instances), random())
            .ok_or_else(|| Error::Invalid(format!("no free address in {subnet}").into()))?;
        let properties = Properties::from([(egress_gateway::ADDRESS.into(), address.to_string())]);
        backend.set_properties(name, &properties).await?;
    }
    Err(Error::Protocol(format!(
        "cannot assign a unique address of gateway {:?} to pixel {:?}: gave up after {ATTEMPTS} \
         attempts",
        gateway.name.instance(),
        name.as_str()
    )))
}

fn parse_all<T: FromStr>(list: impl Iterator<Item = impl AsRef<str>>) -> Vec<T> {
    list.filter_map(|text| text.as_ref().parse().ok()).collect()
}

/// Returns the gateway. Fails with `Error::WrongState` if missing or stopped.
async fn require(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<Instance> {
    let instance = backend.get(&gateway.name).await;
    let instance = instance.map_err(|error| attribute_to_gateway(gateway, error))?;
    match instance.status {
        Status::Stopped => Err(wrong_state(gateway, "stopped")),
        _ => Ok(instance),
    }
}

fn wrong_state(gateway: &GatewaySpec, state: &str) -> Error {
    Error::WrongState {
        subject: Subject::Gateway(gateway.name.instance()),
        state: state.to_owned(),
    }
}

/// Converts errors about the gateway's instance, which would name a pixel, to
/// errors that name the gateway.
fn attribute_to_gateway(gateway: &GatewaySpec, error: Error) -> Error {
    let is_gateway = |name: &String| name == gateway.name.as_str();
    match error {
        Error::NotFound(Subject::Pixel(name)) if is_gateway(&name) => {
            wrong_state(gateway, "missing")
        }
        Error::WrongState {
            subject: Subject::Pixel(name),
            state,
        } if is_gateway(&name) => wrong_state(gateway, &state),
        Error::Guest { status, stderr, .. } => Error::Guest {
            command: format!("the gateway {}", gateway.name.instance()),
            status,
            stderr,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_stopped_gateways_are_reported_as_gateways() {
        let gateway = GatewaySpec::for_tests();
        let missing = |name: &str| Error::NotFound(Subject::pixel(name));
        let stopped = Error::WrongState {
            subject: Subject::pixel("gateway"),
            state: "stopped".into(),
        };
        for (error, message) in [
            (missing("gateway"), "the gateway px-gateway is missing"),
            (stopped, "the gateway px-gateway is stopped"),
            (missing("a"), "pixel \"a\" not found"),
        ] {
            let error = attribute_to_gateway(&gateway, error);
            assert_eq!(error.to_string(), message);
        }
    }
}
