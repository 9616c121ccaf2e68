//! The root disk and the network interfaces of new instances. They are devices
//! of the instance itself and it has no profiles, so no profile has to be edited
//! and none can add a host mount to a pixel.

use std::collections::BTreeMap;

use tokio::sync::OnceCell;

use super::client::{Client, encode};
use super::error::Failure;
use super::isolated_bridge;
use super::wire::{Network, Pool, Profile, pairs};
use crate::model::{Attachment, Error, Reason, Result, Subject};

pub(super) type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// The pool and network from the settings; `None` is chosen on the server.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    pub pool: Option<String>,
    /// A managed network.
    pub network: Option<String>,
    /// A host interface; ignored if `network` is set.
    pub parent: Option<String>,
    /// How the interface is attached to `parent`; by default macvlan.
    pub nic: Option<NicKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicKind {
    Macvlan,
    Bridged,
}

impl NicKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Bridged => "bridged",
        }
    }
}

/// The devices of a new instance: `root`, `eth0`, and `eth1` of a gateway.
pub(super) async fn resolve(
    client: &Client,
    placement: &Placement,
    network: &Attachment,
) -> Result<Devices> {
    let profile = DefaultProfile::new(client);
    let mut root = pairs(&[("type", "disk"), ("path", "/")]);
    root.insert("pool".into(), pool(client, placement, &profile).await?);
    let mut devices = network_devices(client, placement, &profile, network).await?;
    devices.insert("root".into(), root);
    Ok(devices)
}

/// The devices to override on a copy: all interfaces. The root disk is inherited.
pub(super) async fn interfaces(
    client: &Client,
    placement: &Placement,
    network: &Attachment,
) -> Result<Devices> {
    network_devices(client, placement, &DefaultProfile::new(client), network).await
}

async fn network_devices(
    client: &Client,
    placement: &Placement,
    profile: &DefaultProfile<'_>,
    network: &Attachment,
) -> Result<Devices> {
    let mut devices = Devices::new();
    let eth0 = match network {
        Attachment::IsolatedBridge(bridge) => isolated_bridge::pixel_nic(bridge),
        Attachment::Default => nic(client, placement, profile).await?,
        Attachment::Gateway { bridge, subnet } => {
            devices.insert("eth1".into(), isolated_bridge::gateway_nic(bridge));
            let mut uplink = nic(client, placement, profile).await?;
            if uplink.contains_key("network") || has_value(&uplink, "nictype", "bridged") {
                uplink.insert("ipv4.routes".into(), subnet.clone());
            }
            uplink
        }
    };
    devices.insert("eth0".into(), eth0);
    Ok(devices)
}

/// The server's default profile, requested once and only if it is needed.
struct DefaultProfile<'a> {
    client: &'a Client,
    profile: OnceCell<Profile>,
}

impl<'a> DefaultProfile<'a> {
    fn new(client: &'a Client) -> Self {
        Self {
            client,
            profile: OnceCell::new(),
        }
    }

    async fn get(&self) -> Result<&Profile> {
        let request = || self.client.get("/1.0/profiles/default");
        self.profile
            .get_or_try_init(request)
            .await
            .map_err(Failure::into_error)
    }
}

async fn pool(
    client: &Client,
    placement: &Placement,
    profile: &DefaultProfile<'_>,
) -> Result<String> {
    if let Some(name) = &placement.pool {
        return match client
            .get::<Pool>(&format!("/1.0/storage-pools/{}", encode(name)))
            .await
        {
            Ok(pool) => Ok(pool.name),
            Err(failure) => Err(failure.into_error_for(Subject::Pool(name.clone()))),
        };
    }
    if let Some(name) = profile
        .get()
        .await?
        .devices
        .values()
        .find(|d| has_value(d, "type", "disk") && has_value(d, "path", "/"))
        .and_then(|d| d.get("pool"))
    {
        return Ok(name.clone());
    }
    let pools: Vec<Pool> = client
        .get("/1.0/storage-pools?recursion=1")
        .await
        .map_err(Failure::into_error)?;
    choose(pools.into_iter().map(|p| p.name).collect(), "default").map_err(|found| {
        ambiguous(
            Subject::Pool("default".into()),
            "storage pools",
            "defaults.pool",
            found,
        )
    })
}

async fn nic(
    client: &Client,
    placement: &Placement,
    profile: &DefaultProfile<'_>,
) -> Result<BTreeMap<String, String>> {
    let on_network = |network: &str| {
        let mut nic = pairs(&[("type", "nic"), ("name", "eth0")]);
        nic.insert("network".into(), network.to_owned());
        nic
    };
    if let Some(name) = &placement.network {
        return match client
            .get::<Network>(&format!("/1.0/networks/{}", encode(name)))
            .await
        {
            Ok(network) if network.managed => Ok(on_network(&network.name)),
            Ok(_) => {
                let reason = format!("network {name:?} is not managed by Incus");
                let hint = "set defaults.parent to it instead of defaults.network";
                Err(Error::Invalid(Reason::from(reason).with_hint(hint)))
            }
            Err(failure) => Err(failure.into_error_for(Subject::Network(name.clone()))),
        };
    }
    if let Some(parent) = &placement.parent {
        let mut nic = pairs(&[("type", "nic"), ("name", "eth0")]);
        let kind = placement.nic.unwrap_or(NicKind::Macvlan);
        nic.insert("nictype".into(), kind.as_str().into());
        nic.insert("parent".into(), parent.clone());
        return Ok(nic);
    }
    let profile = profile.get().await?;
    if let Some(found) = profile
        .devices
        .values()
        .find(|d| has_value(d, "type", "nic"))
    {
        let mut nic = found.clone();
        nic.insert("name".into(), "eth0".into());
        // Each instance has its own addresses.
        for key in ["hwaddr", "ipv4.address", "ipv6.address"] {
            nic.remove(key);
        }
        return Ok(nic);
    }
    let networks: Vec<Network> = client
        .get("/1.0/networks?recursion=1")
        .await
        .map_err(Failure::into_error)?;
    let bridges = networks
        .into_iter()
        .filter(|n| n.managed && n.kind == "bridge" && !isolated_bridge::is_isolated(n))
        .map(|n| n.name)
        .collect();
    choose(bridges, "incusbr0")
        .map(|name| on_network(&name))
        .map_err(|found| {
            ambiguous(
                Subject::Network("incusbr0".into()),
                "managed bridges",
                "defaults.network",
                found,
            )
        })
}

/// The preferred name if it is there, or the only name; otherwise all names.
fn choose(mut found: Vec<String>, preferred: &str) -> Result<String, Vec<String>> {
    if found.iter().any(|name| name == preferred) {
        return Ok(preferred.to_owned());
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Err(found),
    }
}

fn ambiguous(subject: Subject, what: &str, key: &str, found: Vec<String>) -> Error {
    if found.is_empty() {
        Error::NotFound(subject)
    } else {
        let reason = format!("the server has several {what} ({})", found.join(", "));
        Error::Invalid(Reason::from(reason).with_hint(format!("set {key} to one of them")))
    }
}

fn has_value(device: &BTreeMap<String, String>, key: &str, value: &str) -> bool {
    device.get(key).is_some_and(|actual| actual == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_prefers_the_default_then_a_single_name() {
        let names = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            choose(names(&["a", "default"]), "default").unwrap(),
            "default"
        );
        assert_eq!(choose(names(&["tank"]), "default").unwrap(), "tank");
        assert!(choose(names(&["a", "b"]), "default").is_err());
        assert!(choose(names(&[]), "default").is_err());
    }
}
