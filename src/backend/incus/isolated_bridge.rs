//! Segments: bridges without an address of the host's, and the interfaces on
//! them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, encode};
use super::error::Failure;
use super::messages::{EXEC_OPERATION, Meaning};
use super::wire::{self, Network, NetworkState, Operation, pairs};
use crate::model::{Error, Result, Subject};
use crate::retry;

/// For a moment in which no interface of the host's goes away.
const PATIENCE: Duration = Duration::from_secs(20);
/// For a bridge that somebody else is making or removing.
const CHANGING: Duration = Duration::from_secs(5);
/// For a moment in which the server does nothing else.
const CALM: Duration = Duration::from_secs(10);
/// The status code of an operation that has not ended.
const RUNNING: u32 = 103;
const ISOLATION: &str = "security.port_isolation";

/// The access lists of a network, and what becomes of what they do not mention.
const ACLS: &str = "security.acls";
const DEFAULTS: &str = "security.acls.default.";

fn path(bridge: &str) -> String {
    format!("/1.0/networks/{}", encode(bridge))
}

/// The access list is called like its bridge.
fn acl(bridge: &str) -> String {
    format!("/1.0/network-acls/{}", encode(bridge))
}

/// Makes the bridge and its access list, or mends the list. Of several that do
/// so at once each returns when both are there.
pub(super) async fn ensure(client: &Client, bridge: &str) -> Result<()> {
    let plain = |failure: Failure| failure.into_error_for(subject(bridge));
    client.require("network_bridge_acl").await.map_err(plain)?;
    let attempt = || async {
        match step(client, bridge).await {
            Ok(true) => retry::Next::Done(Ok(())),
            Ok(false) => retry::Next::Again(unfinished(bridge)),
            Err(Step::Passing(failure)) => retry::Next::Again(plain(failure)),
            Err(Step::Failed(error)) => retry::Next::Done(Err(error)),
        }
    };
    retry::until(PATIENCE, attempt).await.unwrap_or_else(Err)
}

/// Why a step towards a bridge got nowhere.
enum Step {
    Passing(Failure),
    Failed(Error),
}

/// Whether the bridge is there; does what is next when it is not.
async fn step(client: &Client, bridge: &str) -> Result<bool, Step> {
    let told = |failure: Failure| match is_transient(&failure) {
        true => Step::Passing(failure),
        false => Step::Failed(failure.into_error_for(subject(bridge))),
    };
    ensure_acl(client, bridge).await.map_err(told)?;
    let found = find(client, bridge).await.map_err(Step::Failed)?;
    let none = |key: &str| (key.to_owned(), json!("none"));
    let mut config: serde_json::Map<String, Value> = ["ipv4.address", "ipv6.address", "dns.mode"]
        .map(none)
        .into_iter()
        .collect();
    config.insert(ACLS.into(), json!(bridge));
    let Some(network) = found else {
        let body = json!({
            "name": bridge,
            "type": "bridge",
            "description": "pixels: leads to their gateway and nowhere else",
            "config": config,
        });
        wait_for_quiet_daemon(client).await;
        return match client.send(Method::POST, "/1.0/networks", &body).await {
            Ok(()) => Ok(true),
            Err(failure) if is_transient(&failure) => {
                // What is half there would be in the way.
                let _ = client.delete(&path(bridge)).await;
                Err(Step::Passing(failure))
            }
            // Somebody else was quicker.
            Err(failure) if failure.meaning() == Some(Meaning::AlreadyExists) => Ok(false),
            Err(failure) => Err(told(failure)),
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
    client
        .send(Method::PATCH, &path(bridge), &body)
        .await
        .map_err(told)?;
    Ok(true)
}

fn unfinished(bridge: &str) -> Error {
    Error::Invalid(
        format!(
            "network {bridge:?} on the server was never finished: \
         `incus network delete {bridge}` makes room for a new one"
        )
        .into(),
    )
}

/// An interface that goes away fails what the daemon does with a bridge at that
/// moment, see [`is_passing`], and when it fails twice the bridge's own
/// interface is left, without a record: no request removes it. So a moment is
/// waited for in which no instance comes or goes, unless there is none.
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
                        .is_some_and(|of| of.contains_key("instances"))
            })
        });
        match busy {
            true => retry::Next::Again(()),
            false => retry::Next::Done(()),
        }
    };
    let _ = retry::until(CALM, attempt).await;
}

/// Repeats what the daemon fails at for a reason that goes away.
async fn retry_transient<T, F>(request: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let attempt = || async {
        match request().await {
            Err(failure) if is_transient(&failure) => retry::Next::Again(failure),
            outcome => retry::Next::Done(outcome),
        }
    };
    retry::until(PATIENCE, attempt).await.unwrap_or_else(Err)
}

fn is_transient(failure: &Failure) -> bool {
    failure.meaning() == Some(Meaning::HostNetworkBusy)
}

/// The bridge of that name, which must be one of ours.
async fn find(client: &Client, bridge: &str) -> Result<Option<Network>> {
    let attempt = || async {
        match client.get::<Network>(&path(bridge)).await {
            Ok(network) if is_pixels_bridge(&network) => retry::Next::Done(Ok(Some(network))),
            // The interface is there before the record is, and after it.
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
    Error::Invalid(
        format!(
            "the server's machine has an interface {bridge:?} that Incus has not on record: \
         `ip link delete {bridge}` there makes room, or name another bridge in network.bridge"
        )
        .into(),
    )
}

fn is_pixels_bridge(network: &Network) -> bool {
    network.managed
        && network.kind == "bridge"
        && is_isolated(network)
        && !network.config.contains_key("bridge.external_interfaces")
        && !network.config.keys().any(|key| key.starts_with(DEFAULTS))
}

fn foreign(bridge: &str) -> Error {
    Error::Invalid(
        format!(
            "network {bridge:?} on the server leads somewhere and cannot wall pixels in: \
         remove it, or name another bridge in network.bridge"
        )
        .into(),
    )
}

/// The host has no address there, so instances on it get none either.
pub(super) fn is_isolated(network: &Network) -> bool {
    let none = |key: &str| network.config.get(key).is_some_and(|value| value == "none");
    none("ipv4.address") && none("ipv6.address")
}

/// A bridge is an interface of the host's, which takes what is sent to the
/// bridge's own hardware address and, being a router, carries it on, whether it
/// has an address there or not. The list refuses what comes **from** the bridge
/// for anywhere else and lets in what goes **to** it: that is the traffic from
/// port to port, where the kernel shows it to this filter at all
/// (`bridge-nf-call-iptables`).
async fn ensure_acl(client: &Client, bridge: &str) -> Result<(), Failure> {
    let rules = json!({
        "description": "pixels: from port to port, and not to the host",
        "config": {},
        "ingress": [{"action": "allow", "state": "enabled"}],
        "egress": [],
    });
    let path = acl(bridge);
    match client.get::<Value>(&path).await {
        // Written again it would be replaced under whoever is making the bridge.
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
                // Somebody else was quicker.
                Err(Failure::Api { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(failure) => return Err(failure),
    }
    client.send(Method::PUT, &path, &rules).await
}

pub(super) async fn remove(client: &Client, bridge: &str) -> Result<()> {
    for path in [path(bridge), acl(bridge)] {
        wait_for_quiet_daemon(client).await;
        match retry_transient(|| client.delete(&path)).await {
            Err(failure) if !failure.is_not_found() => {
                return Err(failure.into_error_for(subject(bridge)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The IPv4 addresses of the machine the daemon runs on, as far as it says.
pub(super) async fn host_addresses(client: &Client) -> Result<Vec<Ipv4Addr>> {
    let networks: Vec<Network> = client
        .get("/1.0/networks?recursion=1")
        .await
        .map_err(Failure::into_error)?;
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
            Err(failure) => return Err(failure.into_error()),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn subject(bridge: &str) -> Subject {
    Subject::Network(bridge.to_owned())
}

/// The interface of a pixel on a segment.
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

/// The interface all of them may talk to.
pub(super) fn gateway_nic(bridge: &str) -> BTreeMap<String, String> {
    let mut nic = pairs(&[("type", "nic"), ("name", "eth1")]);
    nic.insert("network".into(), bridge.to_owned());
    nic
}

/// The segment an instance is confined to.
pub(super) fn bridge_of(instance: &wire::Instance) -> Option<String> {
    let nic = instance.expanded_devices.get("eth0")?;
    let isolated = nic.get(ISOLATION).is_some_and(|value| value == "true");
    nic.get("network").filter(|_| isolated).cloned()
}
