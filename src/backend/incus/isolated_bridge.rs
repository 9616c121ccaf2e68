//! Isolated bridges, on which the host has no address, and the interfaces of
//! instances on such a bridge.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, encode};
use super::devices::Devices;
use super::error::Failure;
use super::messages::{EXEC_OPERATION, Meaning};
use super::operation::retry_while;
use super::wire::{Network, NetworkState, Operation, pairs};
use crate::model::{Error, Reason, Result, Subject};
use crate::retry;

/// How long to retry a step that fails because the host's network changes.
const RETRY: Duration = Duration::from_secs(20);
/// How long to wait while another command creates or deletes the bridge.
const CHANGING: Duration = Duration::from_secs(5);
/// Time limit of [`wait_for_quiet_daemon`].
const QUIET: Duration = Duration::from_secs(10);
/// The status code of a running operation.
const RUNNING: u32 = 103;
const ISOLATION: &str = "security.port_isolation";

/// The key for the access lists of a network.
const ACLS: &str = "security.acls";
/// Prefix of the keys for traffic that no access list matches.
const ACL_DEFAULTS: &str = "security.acls.default.";

pub(super) fn network_path(bridge: &str) -> String {
    format!("/1.0/networks/{}", encode(bridge))
}

/// The access list has the same name as the bridge.
fn acl_path(bridge: &str) -> String {
    format!("/1.0/network-acls/{}", encode(bridge))
}

/// Creates the bridge and the access list, or repairs the list. Safe to call
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

/// Performs the next step of the creation. Returns whether the bridge is complete.
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
                // A leftover bridge would block the retry.
                let _ = client.delete(&network_path(bridge)).await;
                Err(failure)
            }
            // Another command has created the bridge.
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

/// Waits until no operation on an instance runs, but at most for [`QUIET`].
///
/// Bridge changes fail while the host's interfaces change (see
/// [`Meaning::HostNetworkBusy`]). After two failures, the bridge's interface
/// remains on the host without a record in Incus, and no request removes it.
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

/// Returns the isolated bridge of this name. Fails if the network is not isolated.
async fn find(client: &Client, bridge: &str) -> Result<Option<Network>> {
    let attempt = || async {
        match client.get::<Network>(&network_path(bridge)).await {
            Ok(network) if is_pixels_bridge(&network) => retry::Next::Done(Ok(Some(network))),
            // The interface exists for a moment without a record in Incus.
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
    let hint = "delete the network, or set another network.bridge";
    Error::Invalid(Reason::from(reason).with_hint(hint))
}

/// Whether the host has no address on the network.
pub(super) fn is_isolated(network: &Network) -> bool {
    let none = |key: &str| network.config.get(key).is_some_and(|value| value == "none");
    none("ipv4.address") && none("ipv6.address")
}

/// Creates or repairs the access list of the bridge.
///
/// A bridge is an interface of the host. The host accepts frames to the bridge's MAC
/// and, as a router, may forward these frames even without an address. The list denies
/// all traffic **from** the bridge to other networks. The list allows all traffic
/// **to** the bridge, which includes traffic between ports if the kernel filters such
/// traffic (`bridge-nf-call-iptables`).
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
                // Another command has created the access list.
                Err(Failure::Api { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(failure) => return Err(failure),
    }
    client.send(Method::PUT, &path, &rules).await
}

/// Returns the MAC address of the bridge on the daemon's host.
pub(super) async fn mac(client: &Client, bridge: &str) -> Result<String> {
    let path = format!("{}/state", network_path(bridge));
    let state: NetworkState = client
        .get(&path)
        .await
        .map_err(|failure| failure.into_error_for(subject(bridge)))?;
    Ok(state.hwaddr)
}

/// Deletes the bridge and the access list. Succeeds if both are missing.
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

fn subject(bridge: &str) -> Subject {
    Subject::Network(bridge.to_owned())
}

/// The interface of a pixel. The server drops frames between two such
/// interfaces, frames with a different source MAC, and IPv6.
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

/// The interface of a gateway, which every pixel on the bridge can reach.
pub(super) fn gateway_nic(bridge: &str) -> BTreeMap<String, String> {
    let mut nic = pairs(&[("type", "nic"), ("name", "eth1")]);
    nic.insert("network".into(), bridge.to_owned());
    nic
}

/// Returns the isolated bridge of a pixel with these devices.
pub(super) fn bridge_of(devices: &Devices) -> Option<String> {
    let nic = devices.get("eth0")?;
    let isolated = nic.get(ISOLATION).is_some_and(|value| value == "true");
    nic.get("network").filter(|_| isolated).cloned()
}
