//! Segments: bridges without an address of the host's, and the interfaces on
//! them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use reqwest::Method;
use serde_json::json;

use super::client::{Client, encode};
use super::devices::pairs;
use super::failure::Failure;
use super::wire::{self, Network, NetworkState};
use crate::sandbox::{Error, Result, Subject};

const ISOLATION: &str = "security.port_isolation";

fn path(segment: &str) -> String {
    format!("/1.0/networks/{}", encode(segment))
}

pub(super) async fn make(client: &Client, segment: &str) -> Result<()> {
    if exists(client, segment).await? {
        return Ok(());
    }
    let body = json!({
        "name": segment,
        "type": "bridge",
        "description": "pixels: leads to their gateway and nowhere else",
        "config": {"ipv4.address": "none", "ipv6.address": "none", "dns.mode": "none"},
    });
    match client.send(Method::POST, "/1.0/networks", &body).await {
        Ok(()) => Ok(()),
        // Somebody else was quicker.
        Err(Failure::Api { .. }) if exists(client, segment).await.unwrap_or(false) => Ok(()),
        Err(failure) => Err(failure.about(subject(segment))),
    }
}

async fn exists(client: &Client, segment: &str) -> Result<bool> {
    let network: Network = match client.get(&path(segment)).await {
        Ok(network) => network,
        Err(failure) if failure.is_not_found() => return Ok(false),
        Err(failure) => return Err(failure.about(subject(segment))),
    };
    let none = |key: &str| network.config.get(key).is_some_and(|value| value == "none");
    if network.managed
        && network.kind == "bridge"
        && none("ipv4.address")
        && none("ipv6.address")
        && !network.config.contains_key("bridge.external_interfaces")
    {
        return Ok(true);
    }
    Err(Error::Invalid(format!(
        "network {segment:?} on the server leads somewhere and cannot wall pixels in: \
         remove it, or name another bridge in network.bridge"
    )))
}

pub(super) async fn remove(client: &Client, segment: &str) -> Result<()> {
    match client.delete(&path(segment)).await {
        Err(failure) if !failure.is_not_found() => Err(failure.about(subject(segment))),
        _ => Ok(()),
    }
}

/// The IPv4 addresses of the machine the daemon runs on, as far as it says.
pub(super) async fn host_addresses(client: &Client) -> Result<Vec<Ipv4Addr>> {
    let networks: Vec<Network> = client
        .get("/1.0/networks?recursion=1")
        .await
        .map_err(Failure::plain)?;
    let mut found = Vec::new();
    for network in networks.iter().filter(|network| network.kind != "loopback") {
        match client
            .get::<NetworkState>(&format!("{}/state", path(&network.name)))
            .await
        {
            Ok(state) => found.extend(
                state
                    .addresses
                    .iter()
                    .filter(|a| a.family == "inet")
                    .filter_map(|a| a.address.parse::<Ipv4Addr>().ok()),
            ),
            // A network without an interface has no state.
            Err(Failure::Api { .. }) => {}
            Err(failure) => return Err(failure.plain()),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn subject(segment: &str) -> Subject {
    Subject::Network(segment.to_owned())
}

/// The interface of a pixel on a segment.
pub(super) fn member(segment: &str) -> BTreeMap<String, String> {
    let mut nic = gateway(segment);
    nic.extend(pairs(&[
        ("name", "eth0"),
        (ISOLATION, "true"),
        ("security.mac_filtering", "true"),
        ("security.ipv6_filtering", "true"),
    ]));
    nic
}

/// The interface all of them may talk to.
pub(super) fn gateway(segment: &str) -> BTreeMap<String, String> {
    let mut nic = pairs(&[("type", "nic"), ("name", "eth1")]);
    nic.insert("network".into(), segment.to_owned());
    nic
}

/// The segment an instance is confined to.
pub(super) fn of(instance: &wire::Instance) -> Option<String> {
    let nic = instance.expanded_devices.get("eth0")?;
    let isolated = nic.get(ISOLATION).is_some_and(|value| value == "true");
    nic.get("network").filter(|_| isolated).cloned()
}
