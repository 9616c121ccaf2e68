//! Reads instances and their properties.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::client::{Client, encode};
use super::devices::{Device, SIZE};
use super::error::Failure;
use super::full_disk;
use super::instance_lock;
use super::isolated_bridge;
use super::operation::retry_while_busy;
use super::wire::{self, Counters, Lease, NetworkState, State};
use crate::file_lock::LockMode;
use crate::model::{
    Error, Instance, Name, Properties, Result, Status, Subject, Usage, parse_rfc3339,
};

/// Prefix of the instance keys that store a pixel's properties.
pub(super) const PROPERTIES: &str = "user.pixels.";

/// The key of the MAC, which the server generates for each instance and copy.
const MAC: &str = "volatile.eth0.hwaddr";

// Status codes of instances.
pub(super) const RUNNING: u32 = 103;
const STOPPED: u32 = 102;
const FAILED: u32 = 112;

pub(super) fn path(name: &Name) -> String {
    path_of(&name.instance())
}

/// Like [`path`], for the name of an instance.
pub(super) fn path_of(instance: &str) -> String {
    format!("/1.0/instances/{}", encode(instance))
}

pub(super) async fn get(client: &Client, name: &Name) -> Result<Instance> {
    let found: wire::Instance = client
        .get(&path(name))
        .await
        .map_err(|failure| failure.into_error_for(Subject::pixel(name)))?;
    Ok(instance(found, name.clone()))
}

/// Returns the root disk, a device with path, pool and options.
pub(super) async fn root_disk(client: &Client, name: &Name) -> Result<Device> {
    let found: Result<wire::Instance, Failure> = client.get(&path(name)).await;
    let mut found = found.map_err(|failure| failure.into_error_for(Subject::pixel(name)))?;
    Ok(found.expanded_devices.remove("root").unwrap_or_default())
}

/// Returns the names of all pixels. The server answers this without reading the
/// configuration and state of each instance.
pub(super) async fn names(client: &Client) -> Result<BTreeSet<Name>> {
    let paths: Vec<String> = client.get("/1.0/instances?instance-type=container").await?;
    let names = paths.iter().filter_map(|path| {
        let name = path.split('?').next()?.rsplit('/').next()?;
        Name::from_instance(name)
    });
    Ok(names.collect())
}

/// Lists instances with one request, and one request per network for the leases.
/// Requesting each instance's state would cost tens of milliseconds per instance.
pub(super) async fn list(client: &Client) -> Result<Vec<Instance>> {
    let mut pixels: Vec<wire::Instance> = client
        .get("/1.0/instances?instance-type=container&recursion=1")
        .await?;
    pixels.retain(|found| Name::from_instance(&found.name).is_some());
    if pixels.is_empty() {
        require_project(client).await?;
    }
    let networks: BTreeSet<&str> = pixels
        .iter()
        .filter(|i| i.status_code == RUNNING)
        .filter(|i| isolated_bridge::bridge_of(&i.expanded_devices).is_none())
        .filter_map(|i| i.expanded_devices.get("eth0")?.get("network"))
        .map(String::as_str)
        .collect();
    let mut leases: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
    for network in networks {
        let path = format!("/1.0/networks/{}/leases", encode(network));
        let found: Vec<Lease> = match client.get(&path).await {
            Ok(found) => found,
            // A network without leases must not fail the list.
            Err(Failure::Api { code, message }) => {
                tracing::debug!(network, code, message, "no leases");
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        for lease in found {
            if let Ok(address) = lease.address.parse() {
                leases.insert(lease.hwaddr, address);
            }
        }
    }
    let mut pixels: Vec<Instance> = pixels
        .into_iter()
        .filter_map(|found| {
            let lease = (found.status_code == RUNNING)
                .then(|| found.config.get(MAC))
                .flatten()
                .and_then(|mac| leases.get(mac))
                .copied();
            let name = Name::from_instance(&found.name)?;
            let mut pixel = instance(found, name);
            pixel.addresses.extend(lease);
            Some(pixel)
        })
        .collect();
    pixels.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pixels)
}

/// Fails if the project is missing, because Incus then returns an empty list.
async fn require_project(client: &Client) -> Result<()> {
    let Some(project) = client.project() else {
        return Ok(());
    };
    let path = format!("/1.0/projects/{}", encode(project));
    match client.get::<serde_json::Value>(&path).await {
        Err(Failure::Other(error @ Error::NotFound(_))) => Err(error),
        // A user without access to the project may still have access to its pixels.
        _ => Ok(()),
    }
}

/// Requests the state, which contains the addresses and the resource usage.
pub(super) async fn state(client: &Client, name: &Name) -> Result<State> {
    let path = format!("{}/state", path(name));
    let state = client.get(&path).await;
    state.map_err(|failure: Failure| failure.into_error_for(Subject::pixel(name)))
}

pub(super) fn address(state: State) -> Option<Ipv4Addr> {
    let interfaces = state.network.unwrap_or_default();
    interfaces.get("eth0").and_then(global_ipv4)
}

pub(super) fn usage(state: State) -> Usage {
    let interfaces = state.network.unwrap_or_default();
    let total = |count: fn(&Counters) -> i64| {
        let others = interfaces.iter().filter(|(name, _)| *name != "lo");
        others
            .map(|(_, interface)| known(count(&interface.counters)))
            .fold(0, u64::saturating_add)
    };
    let disks = state.disk.unwrap_or_default();
    Usage {
        cpu: Duration::from_nanos(known(state.cpu.usage)),
        memory: known(state.memory.usage),
        disk: disks.get("root").map(|disk| known(disk.usage)),
        received: total(|counters| counters.bytes_received),
        sent: total(|counters| counters.bytes_sent),
        processes: known(state.processes),
    }
}

/// Replaces negative amounts, which mean unknown, by 0.
fn known(amount: i64) -> u64 {
    u64::try_from(amount).unwrap_or(0)
}

fn global_ipv4(interface: &NetworkState) -> Option<Ipv4Addr> {
    interface
        .addresses
        .iter()
        .filter(|a| a.family == "inet" && a.scope == "global")
        .find_map(|a| a.address.parse().ok())
}

pub(super) fn with_prefix(properties: &Properties) -> BTreeMap<String, String> {
    properties
        .iter()
        .map(|(key, value)| (format!("{PROPERTIES}{key}"), value.clone()))
        .collect()
}

pub(super) async fn set_properties(
    client: &Client,
    name: &Name,
    properties: &Properties,
) -> Result<()> {
    let body = json!({"config": with_prefix(properties)});
    let path = path(name);
    let _lock = instance_lock::lock(client, name, LockMode::Shared).await?;
    // The daemon rejects changes while the instance starts.
    let change = || retry_while_busy(|| client.send(Method::PATCH, &path, &body));
    full_disk::retry_if_full(client, name, change)
        .await
        .map_err(|failure| failure.into_error_for(Subject::pixel(name)))
}

pub(super) fn instance(found: wire::Instance, name: Name) -> Instance {
    let text = |key: &str| found.expanded_config.get(key).cloned();
    let root = found.expanded_devices.get("root");
    let disk = root.and_then(|root| root.get(SIZE));
    let image = text("image.description").or_else(|| {
        let os = text("image.os")?;
        Some(match text("image.release") {
            Some(release) => format!("{os}/{release}"),
            None => os,
        })
    });
    Instance {
        isolated_bridge: isolated_bridge::bridge_of(&found.expanded_devices),
        mac: found.config.get(MAC).cloned(),
        name,
        status: match found.status_code {
            RUNNING => Status::Running,
            STOPPED => Status::Stopped,
            FAILED => Status::Failed,
            _ => Status::Changing,
        },
        addresses: Vec::new(),
        created_at: timestamp(&found.created_at),
        started_once: timestamp(&found.last_used_at) > 0,
        image,
        cpu: text("limits.cpu"),
        memory: text("limits.memory"),
        disk: disk.cloned(),
        privileged: text("security.privileged").as_deref() == Some("true"),
        properties: properties(&found.config),
    }
}

pub(super) fn properties(config: &BTreeMap<String, String>) -> Properties {
    config
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(PROPERTIES)?.to_owned(), value.clone())))
        .collect()
}

/// Parses a daemon's time stamp to Unix seconds. An unset time stamp is 0 or less.
pub(super) fn timestamp(text: &str) -> i64 {
    parse_rfc3339(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_time_stamps_are_not_positive() {
        assert!(timestamp("1970-01-01T00:00:00Z") <= 0);
        assert!(timestamp("0001-01-01T00:00:00Z") <= 0);
        assert!(timestamp("2026-11-23T14:07:46.252698822Z") > 0);
        assert_eq!(timestamp("nonsense"), 0);
    }

    #[test]
    fn primary_address_is_the_global_ipv4() {
        let interface: NetworkState = serde_json::from_value(json!({"addresses": [
            {"family": "inet6", "address": "fe80::1", "scope": "link"},
            {"family": "inet", "address": "10.1.2.3", "scope": "global"},
        ]}))
        .unwrap();
        assert_eq!(global_ipv4(&interface), Some(Ipv4Addr::new(10, 1, 2, 3)));
    }
}
