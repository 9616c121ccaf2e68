//! The root disk and the network interfaces of new instances. Pixels have
//! devices but no profiles, so that no profile can add a host mount to a pixel.

use std::collections::BTreeMap;

use tokio::sync::OnceCell;

use super::client::{Client, encode};
use super::isolated_bridge;
use super::wire::{Network, Pool, Profile, pairs};
use crate::model::{Attachment, Error, NicKind, Reason, Result, Subject};

type Device = BTreeMap<String, String>;
pub(super) type Devices = BTreeMap<String, Device>;

/// The pool and network from the settings. `None` selects the server's default.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    pub pool: Option<String>,
    /// The name of a managed network.
    pub network: Option<String>,
    /// The name of a host interface, ignored if `network` is set.
    pub parent: Option<String>,
    /// How the interface is attached to `parent`. The default is macvlan.
    pub nic: Option<NicKind>,
}

/// Chooses the devices of instances.
pub(super) struct Resolver<'a> {
    client: &'a Client,
    placement: &'a Placement,
    /// The server's default profile, requested at most once and only if needed.
    profile: OnceCell<Profile>,
}

impl<'a> Resolver<'a> {
    pub fn new(client: &'a Client, placement: &'a Placement) -> Self {
        Self {
            client,
            placement,
            profile: OnceCell::new(),
        }
    }

    /// Returns the devices of a new instance: `root`, `eth0`, and a gateway's `eth1`.
    pub async fn all(&self, network: &Attachment) -> Result<Devices> {
        let mut root = pairs(&[("type", "disk"), ("path", "/")]);
        root.insert("pool".into(), self.pool().await?);
        let mut devices = self.interfaces(network).await?;
        devices.insert("root".into(), root);
        Ok(devices)
    }

    /// Returns the devices to override on a copy: all network interfaces. A copy
    /// inherits the root disk.
    pub async fn interfaces(&self, network: &Attachment) -> Result<Devices> {
        let mut devices = Devices::new();
        let eth0 = match network {
            Attachment::IsolatedBridge(bridge) => isolated_bridge::pixel_nic(bridge),
            Attachment::Default => self.nic().await?,
            Attachment::Gateway { bridge, subnet } => {
                devices.insert("eth1".into(), isolated_bridge::gateway_nic(bridge));
                let mut uplink = self.nic().await?;
                if uplink.contains_key("network") || has_value(&uplink, "nictype", "bridged") {
                    uplink.insert("ipv4.routes".into(), subnet.clone());
                }
                uplink
            }
        };
        devices.insert("eth0".into(), eth0);
        Ok(devices)
    }

    /// Returns a device of the default profile that satisfies `is_wanted`.
    async fn of_profile(&self, is_wanted: fn(&Device) -> bool) -> Result<Option<&Device>> {
        let request = || self.client.get("/1.0/profiles/default");
        let profile = self.profile.get_or_try_init(request).await?;
        Ok(profile.devices.values().find(|device| is_wanted(device)))
    }

    async fn pool(&self) -> Result<String> {
        if let Some(name) = &self.placement.pool {
            let path = format!("/1.0/storage-pools/{}", encode(name));
            return match self.client.get::<Pool>(&path).await {
                Ok(pool) => Ok(pool.name),
                Err(failure) => Err(failure.into_error_for(Subject::Pool(name.clone()))),
            };
        }
        let is_root = |d: &Device| has_value(d, "type", "disk") && has_value(d, "path", "/");
        let root = self.of_profile(is_root).await?;
        if let Some(name) = root.and_then(|device| device.get("pool")) {
            return Ok(name.clone());
        }
        let pools: Vec<Pool> = self.client.get("/1.0/storage-pools?recursion=1").await?;
        let names = pools.into_iter().map(|pool| pool.name).collect();
        choose(names, "default", Subject::Pool, "storage pools", "pool")
    }

    async fn nic(&self) -> Result<Device> {
        let on_network = |network: String| {
            let mut nic = pairs(&[("type", "nic"), ("name", "eth0")]);
            nic.insert("network".into(), network);
            nic
        };
        if let Some(name) = &self.placement.network {
            let path = format!("/1.0/networks/{}", encode(name));
            return match self.client.get::<Network>(&path).await {
                Ok(network) if network.managed => Ok(on_network(network.name)),
                Ok(_) => {
                    let reason = format!("network {name:?} is not managed by Incus");
                    let hint = "set defaults.parent to that name instead of defaults.network";
                    Err(Error::Invalid(Reason::from(reason).with_hint(hint)))
                }
                Err(failure) => Err(failure.into_error_for(Subject::Network(name.clone()))),
            };
        }
        if let Some(parent) = &self.placement.parent {
            let kind = match self.placement.nic {
                Some(NicKind::Bridged) => "bridged",
                Some(NicKind::Macvlan) | None => "macvlan",
            };
            let mut nic = pairs(&[("type", "nic"), ("name", "eth0"), ("nictype", kind)]);
            nic.insert("parent".into(), parent.clone());
            return Ok(nic);
        }
        if let Some(found) = self.of_profile(|d| has_value(d, "type", "nic")).await? {
            let mut nic = found.clone();
            nic.insert("name".into(), "eth0".into());
            // Each instance needs its own addresses.
            for key in ["hwaddr", "ipv4.address", "ipv6.address"] {
                nic.remove(key);
            }
            return Ok(nic);
        }
        let networks: Vec<Network> = self.client.get("/1.0/networks?recursion=1").await?;
        let bridges = networks
            .into_iter()
            .filter(|n| n.managed && n.kind == "bridge" && !isolated_bridge::is_isolated(n))
            .map(|n| n.name)
            .collect();
        let bridge = choose(
            bridges,
            "incusbr0",
            Subject::Network,
            "managed bridges",
            "network",
        );
        bridge.map(on_network)
    }
}

/// Returns the preferred name if it exists, or the only name. If several other
/// names exist, the setting `defaults.KEY` must select a name.
fn choose(
    mut found: Vec<String>,
    preferred: &str,
    subject: fn(String) -> Subject,
    what: &str,
    key: &str,
) -> Result<String> {
    if found.iter().any(|name| name == preferred) {
        return Ok(preferred.to_owned());
    }
    match found.len() {
        0 => Err(Error::NotFound(subject(preferred.to_owned()))),
        1 => Ok(found.remove(0)),
        _ => {
            let reason = format!("the server has several {what} ({})", found.join(", "));
            let hint = format!("set defaults.{key} to one of them");
            Err(Error::Invalid(Reason::from(reason).with_hint(hint)))
        }
    }
}

fn has_value(device: &Device, key: &str, value: &str) -> bool {
    device.get(key).is_some_and(|actual| actual == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_prefers_the_default_then_a_single_name() {
        for (found, expected) in [
            (&["a", "default"][..], Some("default")),
            (&["tank"], Some("tank")),
            (&["a", "b"], None),
            (&[], None),
        ] {
            let names = found.iter().map(|name| (*name).to_owned()).collect();
            let chosen = choose(names, "default", Subject::Pool, "pools", "pool");
            assert_eq!(chosen.ok().as_deref(), expected, "{found:?}");
        }
    }
}
