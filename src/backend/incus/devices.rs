//! Where a pixel's disk and network interface come from. Both devices are
//! always written on the instance itself, so no profile needs editing and no
//! profile can add a host mount to a pixel unseen.

use std::collections::BTreeMap;

use tokio::sync::OnceCell;

use super::client::{Client, encode};
use super::error::Failure;
use super::isolated_bridge;
use super::wire::{Network, Pool, Profile, pairs};
use crate::model::{Attachment, Error, Result, Subject};

pub(super) type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// The user's wishes; what is `None` is found on the server.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    pub pool: Option<String>,
    /// A managed network.
    pub network: Option<String>,
    /// A host interface, when no managed network is named.
    pub parent: Option<String>,
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

/// The `root` and `eth0` devices of a new pixel, and `eth1` of a gateway.
pub(super) async fn resolve(
    client: &Client,
    options: &Placement,
    network: &Attachment,
) -> Result<Devices> {
    let profile = DefaultProfile::new(client);
    let mut root = pairs(&[("type", "disk"), ("path", "/")]);
    root.insert("pool".into(), pool(client, options, &profile).await?);
    let mut devices = attached(client, options, &profile, network).await?;
    devices.insert("root".into(), root);
    Ok(devices)
}

/// Those that are not its source's in a copy, whose disk is.
pub(super) async fn interfaces(
    client: &Client,
    options: &Placement,
    network: &Attachment,
) -> Result<Devices> {
    attached(client, options, &DefaultProfile::new(client), network).await
}

async fn attached(
    client: &Client,
    options: &Placement,
    profile: &DefaultProfile<'_>,
    network: &Attachment,
) -> Result<Devices> {
    let mut devices = Devices::new();
    let eth0 = match network {
        Attachment::IsolatedBridge(bridge) => isolated_bridge::pixel_nic(bridge),
        Attachment::Default => nic(client, options, profile).await?,
        Attachment::Gateway { bridge, subnet } => {
            devices.insert("eth1".into(), isolated_bridge::gateway_nic(bridge));
            let mut uplink = nic(client, options, profile).await?;
            if uplink.contains_key("network") || is(&uplink, "nictype", "bridged") {
                uplink.insert("ipv4.routes".into(), subnet.clone());
            }
            uplink
        }
    };
    devices.insert("eth0".into(), eth0);
    Ok(devices)
}

/// Asked for once, and only where the settings leave something open.
struct DefaultProfile<'a> {
    client: &'a Client,
    found: OnceCell<Profile>,
}

impl<'a> DefaultProfile<'a> {
    fn new(client: &'a Client) -> Self {
        Self {
            client,
            found: OnceCell::new(),
        }
    }

    async fn get(&self) -> Result<&Profile> {
        let ask = || self.client.get("/1.0/profiles/default");
        self.found
            .get_or_try_init(ask)
            .await
            .map_err(Failure::into_error)
    }
}

async fn pool(
    client: &Client,
    options: &Placement,
    profile: &DefaultProfile<'_>,
) -> Result<String> {
    if let Some(name) = &options.pool {
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
        .find(|d| is(d, "type", "disk") && is(d, "path", "/"))
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
    options: &Placement,
    profile: &DefaultProfile<'_>,
) -> Result<BTreeMap<String, String>> {
    let on_network = |network: &str| {
        let mut nic = pairs(&[("type", "nic"), ("name", "eth0")]);
        nic.insert("network".into(), network.to_owned());
        nic
    };
    if let Some(name) = &options.network {
        return match client
            .get::<Network>(&format!("/1.0/networks/{}", encode(name)))
            .await
        {
            Ok(network) if network.managed => Ok(on_network(&network.name)),
            Ok(_) => Err(Error::Invalid(
                format!(
                    "network {name:?} is not managed by Incus: name it in defaults.parent instead"
                )
                .into(),
            )),
            Err(failure) => Err(failure.into_error_for(Subject::Network(name.clone()))),
        };
    }
    if let Some(parent) = &options.parent {
        let mut nic = pairs(&[("type", "nic"), ("name", "eth0")]);
        let kind = options.nic.unwrap_or(NicKind::Macvlan);
        nic.insert("nictype".into(), kind.as_str().into());
        nic.insert("parent".into(), parent.clone());
        return Ok(nic);
    }
    let profile = profile.get().await?;
    if let Some(found) = profile.devices.values().find(|d| is(d, "type", "nic")) {
        let mut nic = found.clone();
        nic.insert("name".into(), "eth0".into());
        // These belong to one instance, not to every pixel.
        for own in ["hwaddr", "ipv4.address", "ipv6.address"] {
            nic.remove(own);
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

fn choose(mut found: Vec<String>, usual: &str) -> Result<String, Vec<String>> {
    if found.iter().any(|name| name == usual) {
        return Ok(usual.to_owned());
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
        Error::Invalid(
            format!(
                "the server has several {what} ({}): name one in {key}",
                found.join(", ")
            )
            .into(),
        )
    }
}

fn is(device: &BTreeMap<String, String>, key: &str, value: &str) -> bool {
    device.get(key).is_some_and(|have| have == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_one_wins_then_the_only_one() {
        let names = |of: &[&str]| of.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            choose(names(&["a", "default"]), "default").unwrap(),
            "default"
        );
        assert_eq!(choose(names(&["tank"]), "default").unwrap(), "tank");
        assert!(choose(names(&["a", "b"]), "default").is_err());
        assert!(choose(names(&[]), "default").is_err());
    }
}
