//! Isolated bridges: networks without an address of the host, and the interfaces
//! on them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, encode};
use super::error::Failure;
use super::messages::{EXEC_OPERATION, Meaning};
use super::operation::retry_while;
use super::wire::{self, Network, NetworkState, Operation, pairs};
use crate::model::{Error, Reason, Result, Subject};
use crate::retry;

/// How long a step is retried that fails because the host's network changes.
const RETRY: Duration = Duration::from_secs(20);
/// How long another command's creation or removal of the bridge is waited for.
const CHANGING: Duration = Duration::from_secs(5);
/// How long [`wait_for_quiet_daemon`] waits.
const QUIET: Duration = Duration::from_secs(10);
/// The status code of an operation that has not ended.
const RUNNING: u32 = 103;
const ISOLATION: &str = "security.port_isolation";

/// The access lists of a network.
const ACLS: &str = "security.acls";
/// Prefix of the actions for traffic that no access list mentions.
const ACL_DEFAULTS: &str = "security.acls.default.";

fn network_path(bridge: &str) -> String {
    format!("/1.0/networks/{}", encode(bridge))
}

/// The access list has the name of its bridge.
fn acl_path(bridge: &str) -> String {
    format!("/1.0/network-acls/{}", encode(bridge))
}

/// Creates the bridge and its access list, or repairs the list. Safe to call
/// concurrently: each call returns when both exist.
pub(super) async fn ensure(client: &Client, bridge: &str) -> Result<()> {
    client.require("network_bridge_acl").await?;
    let attempt = || async {
        match step(client, bridge).await {
            Ok(true) => retry::Next::Done(Ok(())),
            Ok(false) => retry::Next::Again(unfinished(bridge)),
            Err(failure) => {
                let is_transient = is_transient(&failure);
                let error = failure.into_error_for(subject(bridge));
                match is_transient {
                    true => retry::Next::Again(error),
                    false => retry::Next::Done(Err(error)),
                }
            }
        }
    };
    retry::until(RETRY, attempt).await.unwrap_or_else(Err)
}

/// Takes the next step to a complete bridge. Whether it is complete now.
async fn step(client: &Client, bridge: &str) -> Result<bool, Failure> {
    ensure_acl(client, bridge).await?;
    let found = find(client, bridge).await?;
    let config = json!({
        "ipv4.address": "none",
        "ipv6.address": "none",
        "dns.mode": "none",
        (ACLS): bridge,
    });
    let Some(network) = found else {
        let body = json!({
            "name": bridge,
            "type": "bridge",
            "description": "pixels: isolated bridge to their gateway",
            "config": config,
        });
        wait_for_quiet_daemon(client).await;
        return match client.send(Method::POST, "/1.0/networks", &body).await {
            Ok(()) => Ok(true),
            Err(failure) if is_transient(&failure) => {
                // An incomplete bridge would block the retry.
                let _ = client.delete(&network_path(bridge)).await;
                Err(failure)
            }
            // Another command has created it.
            Err(failure) if failure.meaning() == Some(Meaning::AlreadyExists) => Ok(false),
            Err(failure) => Err(failure),
        };
    };
    if network.status == "Pending" {
        return Ok(false);
    }
    if network
        .config
        .get(ACLS)
        .is_some_and(|listed| listed == bridge)
    {
        return Ok(true);
    }
    let body = json!({"config": config});
    let path = network_path(bridge);
    client.send(Method::PATCH, &path, &body).await?;
    Ok(true)
}

fn unfinished(bridge: &str) -> Error {
    let reason = format!("network {bridge:?} on the server is incomplete");
    let hint = format!("run: incus network delete {bridge}");
    Error::Invalid(Reason::from(reason).with_hint(hint))
}

/// Waits, at most for [`QUIET`], until no operation on an instance runs.
///
/// A change of the host's interfaces makes the daemon's work on a bridge fail
/// (see [`Meaning::HostNetworkBusy`]). If it fails twice, the interface of the
/// bridge stays on the host without a record, and no request removes it.
async fn wait_for_quiet_daemon(client: &Client) {
    let attempt = || async {
        let all = client.get::<BTreeMap<String, Vec<Operation>>>("/1.0/operations?recursion=1");
        let busy = all.await.is_ok_and(|all| {
            all.values().flatten().any(|operation| {
                operation.status_code == RUNNING
                    && operation.description != EXEC_OPERATION
                    && operation
                        .resources
                        .as_ref()
                        .is_some_and(|resources| resources.contains_key("instances"))
            })
        });
        match busy {
            true => retry::Next::Again(()),
            false => retry::Next::Done(()),
        }
    };
    let _ = retry::until(QUIET, attempt).await;
}

fn is_transient(failure: &Failure) -> bool {
    failure.meaning() == Some(Meaning::HostNetworkBusy)
}

/// The isolated bridge of this name. Any other network of the name is an error.
async fn find(client: &Client, bridge: &str) -> Result<Option<Network>> {
    let attempt = || async {
        match client.get::<Network>(&network_path(bridge)).await {
            Ok(network) if is_pixels_bridge(&network) => retry::Next::Done(Ok(Some(network))),
            // The interface exists before and after its record.
            Ok(network) if !network.managed => retry::Next::Again(unrecorded(bridge)),
            Ok(network) if network.status == "Pending" => retry::Next::Again(foreign(bridge)),
            Ok(_) => retry::Next::Done(Err(foreign(bridge))),
            Err(failure) if failure.is_not_found() => retry::Next::Done(Ok(None)),
            Err(failure) => retry::Next::Done(Err(failure.into_error_for(subject(bridge)))),
        }
    };
    retry::until(CHANGING, attempt).await.unwrap_or_else(Err)
}

fn unrecorded(bridge: &str) -> Error {
    let reason = format!("the server's host has an interface {bridge:?} that is not in Incus");
    let hint = format!("run on the host: `ip link delete {bridge}`, or set another network.bridge");
    Error::Invalid(Reason::from(reason).with_hint(hint))
}

fn is_pixels_bridge(network: &Network) -> bool {
    network.managed
        && network.kind == "bridge"
        && is_isolated(network)
        && !network.config.contains_key("bridge.external_interfaces")
        && !network
            .config
            .keys()
            .any(|key| key.starts_with(ACL_DEFAULTS))
}

fn foreign(bridge: &str) -> Error {
    let reason = format!("network {bridge:?} on the server is not an isolated bridge");
    let hint = "delete it, or set another network.bridge";
    Error::Invalid(Reason::from(reason).with_hint(hint))
}

/// Whether the host has no address on the network.
pub(super) fn is_isolated(network: &Network) -> bool {
    let none = |key: &str| network.config.get(key).is_some_and(|value| value == "none");
    none("ipv4.address") && none("ipv6.address")
}

/// Creates or repairs the access list of the bridge.
///
/// A bridge is an interface of the host. The host accepts frames to the bridge's
/// own MAC and, as a router, forwards them even without an address there. The
/// list denies all traffic **from** the bridge to elsewhere and allows all **to**
/// it, which is the traffic from port to port if the kernel passes that to this
/// filter at all (`bridge-nf-call-iptables`).
async fn ensure_acl(client: &Client, bridge: &str) -> Result<(), Failure> {
    let rules = json!({
        "description": "pixels: from port to port, not to the host",
        "config": {},
        "ingress": [{"action": "allow", "state": "enabled"}],
        "egress": [],
    });
    let path = acl_path(bridge);
    match client.get::<Value>(&path).await {
        // A rewrite would replace the list while another command creates the bridge.
        Ok(found)
            if ["config", "ingress", "egress"]
                .iter()
                .all(|key| found[key] == rules[key]) =>
        {
            return Ok(());
        }
        Ok(_) => {}
        Err(failure) if failure.is_not_found() => {
            let mut body = rules.clone();
            body["name"] = json!(bridge);
            match client.send(Method::POST, "/1.0/network-acls", &body).await {
                // Another command has created it.
                Err(Failure::Api { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(failure) => return Err(failure),
    }
    client.send(Method::PUT, &path, &rules).await
}

/// Deletes the bridge and its access list. Missing counts as done.
pub(super) async fn remove(client: &Client, bridge: &str) -> Result<()> {
    for path in [network_path(bridge), acl_path(bridge)] {
        wait_for_quiet_daemon(client).await;
        match retry_while(is_transient, RETRY, || client.delete(&path)).await {
            Err(failure) if !failure.is_not_found() => {
                return Err(failure.into_error_for(subject(bridge)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The IPv4 addresses of the daemon's host, as far as the daemon reports them.
pub(super) async fn host_addresses(client: &Client) -> Result<Vec<Ipv4Addr>> {
    let networks: Vec<Network> = client.get("/1.0/networks?recursion=1").await?;
    let mut found = Vec::new();
    for network in networks.iter().filter(|network| network.kind != "loopback") {
        let path = format!("{}/state", network_path(&network.name));
        match client.get::<NetworkState>(&path).await {
            Ok(state) => found.extend(
                state
                    .addresses
                    .iter()
                    .filter(|a| a.family == "inet")
                    .filter_map(|a| a.address.parse::<Ipv4Addr>().ok()),
            ),
            // A network without an interface has no state.
            Err(Failure::Api { .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn subject(bridge: &str) -> Subject {
    Subject::Network(bridge.to_owned())
}

/// The interface of a pixel. The server drops frames between two such
/// interfaces, frames with another MAC than the interface's, and IPv6.
pub(super) fn pixel_nic(bridge: &str) -> BTreeMap<String, String> {
    let mut nic = gateway_nic(bridge);
    nic.extend(pairs(&[
        ("name", "eth0"),
        (ISOLATION, "true"),
        ("security.mac_filtering", "true"),
        ("security.ipv6_filtering", "true"),
    ]));
    nic
}

/// The interface of a gateway, which all pixels on the bridge reach.
pub(super) fn gateway_nic(bridge: &str) -> BTreeMap<String, String> {
    let mut nic = pairs(&[("type", "nic"), ("name", "eth1")]);
    nic.insert("network".into(), bridge.to_owned());
    nic
}

/// The isolated bridge that an instance is attached to as a pixel.
pub(super) fn bridge_of(instance: &wire::Instance) -> Option<String> {
    let nic = instance.expanded_devices.get("eth0")?;
    let isolated = nic.get(ISOLATION).is_some_and(|value| value == "true");
    nic.get("network").filter(|_| isolated).cloned()
}
