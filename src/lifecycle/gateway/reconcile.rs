//! The gateway made equal to the server's records.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use super::{DNS, GatewaySpec, HOST};
use crate::egress;
use crate::egress::gateway::{self as inside, DesiredState, Subnet};
use crate::model::{Backend, Error, Instance, Name, Properties, Result, Status, Subject};

/// How often a pixel is given another address when somebody else has its.
const ATTEMPTS: usize = 5;

/// Reads the server's records and puts them into force, one caller at a time.
/// Repeating it changes nothing.
pub async fn reconcile(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    apply_locked(backend, gateway, Change::Nothing).await
}

/// As [`reconcile`], with a change of this pixel's record that is made while
/// nobody else changes any: what `change` makes of the record as it is now.
/// When that cannot be put into force, the record is as before.
pub async fn change(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    name: &Name,
    change: &(dyn Fn(&Instance) -> Result<Properties> + Sync),
) -> Result<()> {
    let before = Mutex::new(None);
    let doing = Change::Change(name, change, &before);
    let outcome = apply_locked(backend, gateway, doing).await;
    let before = before.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let (Err(_), Some(before)) = (&outcome, before) {
        backend.set_properties(name, &before).await?;
    }
    outcome
}

/// What is done in a turn before the records are read.
enum Change<'a> {
    Nothing,
    Admit(&'a Name),
    /// The last part is told what was on record before.
    Change(
        &'a Name,
        &'a (dyn Fn(&Instance) -> Result<Properties> + Sync),
        &'a Mutex<Option<Properties>>,
    ),
}

/// As [`reconcile`], and sees to it that this pixel has an address that no
/// other pixel has. Until then, nothing of it is let through.
pub async fn admit(backend: &dyn Backend, gateway: &GatewaySpec, name: &Name) -> Result<()> {
    apply_locked(backend, gateway, Change::Admit(name)).await
}

/// An address for a new pixel. Whether another has it is found out on
/// admission.
pub fn random_address(gateway: &GatewaySpec) -> String {
    let address = gateway.subnet.free(&Default::default(), random());
    address.map(|a| a.to_string()).unwrap_or_default()
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

async fn apply_locked(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    doing: Change<'_>,
) -> Result<()> {
    let own = require(backend, gateway).await?;
    let subnet = super::subnet(&own).ok_or_else(|| missing(gateway))?;
    let guest = backend.guest(&gateway.name);
    let outcome = inside::apply_locked(&*guest, async |current| {
        let instances = match doing {
            Change::Nothing => backend.list().await?,
            Change::Admit(name) => assign_unique_address(backend, gateway, subnet, name).await?,
            Change::Change(name, change, before) => {
                let instance = backend.get(name).await?;
                let records = change(&instance)?;
                let of = |key: &String| {
                    let value = instance.properties.get(key).cloned();
                    (key.clone(), value.unwrap_or_default())
                };
                *before.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(records.keys().map(of).collect());
                backend.set_properties(name, &records).await?;
                backend.list().await?
            }
        };
        let dns = match own.properties.get(DNS) {
            Some(list) => parse_all(list.split(',')),
            None => parse_all(current.dns.iter().map(String::as_str)),
        };
        let host = own
            .properties
            .get(HOST)
            .map(String::as_str)
            .unwrap_or_default();
        let desired = DesiredState {
            subnet,
            bridge: &gateway.bridge,
            instances: &instances,
            presets: egress::presets(),
            dns,
            host_addresses: parse_all(host.split(',')),
            current,
        };
        desired.state_files()
    })
    .await;
    outcome.map_err(|error| attribute_to_gateway(gateway, error))
}

/// The server's records, once the pixel of this name is told from all others.
async fn assign_unique_address(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    subnet: Subnet,
    name: &Name,
) -> Result<Vec<Instance>> {
    for _ in 0..ATTEMPTS {
        let instances = backend.list().await?;
        let members = inside::clients(&instances, &gateway.bridge, subnet);
        if members.iter().any(|member| member.name == *name) {
            return Ok(instances);
        }
        if !instances.iter().any(|instance| instance.name == *name) {
            return Err(Error::NotFound(Subject::pixel(name)));
        }
        let address = subnet
            .free(&inside::allocated_addresses(&instances), random())
            .ok_or_else(|| Error::Invalid(format!("no address is left in {subnet}").into()))?;
        let properties = Properties::from([(inside::ADDRESS.into(), address.to_string())]);
        backend.set_properties(name, &properties).await?;
    }
    Err(Error::Protocol(format!(
        "pixel {:?} gets no place behind the gateway {}",
        name.as_str(),
        gateway.name.instance()
    )))
}

fn parse_all<T: FromStr>(list: impl Iterator<Item = impl AsRef<str>>) -> Vec<T> {
    list.filter_map(|text| text.as_ref().parse().ok()).collect()
}

/// The gateway, which must be at work.
pub async fn require(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<Instance> {
    let found = backend.get(&gateway.name).await;
    let found = found.map_err(|error| attribute_to_gateway(gateway, error))?;
    match found.status {
        Status::Stopped => Err(wrong_state(gateway, "stopped".into())),
        _ => Ok(found),
    }
}

/// It is no pixel of the user's that is not found.
fn missing(gateway: &GatewaySpec) -> Error {
    wrong_state(gateway, "missing".into())
}

fn wrong_state(gateway: &GatewaySpec, state: String) -> Error {
    Error::WrongState {
        subject: Subject::Gateway(gateway.name.instance()),
        state,
    }
}

/// A gateway that does not do its part is said by name.
fn attribute_to_gateway(gateway: &GatewaySpec, error: Error) -> Error {
    let is_it = |name: &String| name == gateway.name.as_str();
    match error {
        Error::NotFound(Subject::Pixel(name)) if is_it(&name) => missing(gateway),
        Error::WrongState {
            subject: Subject::Pixel(name),
            state: found,
        } if is_it(&name) => wrong_state(gateway, found),
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
    fn a_gateway_that_is_not_there_is_no_pixel_that_is_not_there() {
        let gateway = GatewaySpec {
            name: Name::gateway(None),
            bridge: "pixels0".into(),
            subnet: "10.98.0.0/16".parse().unwrap(),
            any_subnet: true,
            dns: Vec::new(),
            built: String::new(),
            image: String::new(),
            learned: None,
        };
        let about =
            |name: &str| attribute_to_gateway(&gateway, Error::NotFound(Subject::pixel(name)));
        assert_eq!(
            about("gateway").to_string(),
            "the gateway px-gateway is missing"
        );
        assert!(about("a").is_not_found());
        let stopped = Error::WrongState {
            subject: Subject::pixel("gateway"),
            state: "stopped".into(),
        };
        let told = attribute_to_gateway(&gateway, stopped).to_string();
        assert_eq!(told, "the gateway px-gateway is stopped");
    }
}
