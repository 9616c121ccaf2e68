//! The root disk and the network interfaces of new instances. Pixels have
//! devices but no profiles, so that no profile can add a host mount to a pixel.

use std::collections::BTreeMap;

use tokio::sync::OnceCell;

use super::client::{Client, encode};
use super::isolated_bridge;
use super::wire::{Network, Pool, Profile, pairs};
use crate::model::{Attachment, Error, NicKind, Reason, Result, Subject};

pub(super) type Device = BTreeMap<String, String>;
pub(super) type Devices = BTreeMap<String, Device>;

/// The key of the root disk's limit in bytes.
pub(super) const SIZE: &str = "size";
/// The key of a btrfs pool whose simple quotas an administrator has enabled. The API
/// does not report quotas.
pub const SIMPLE_QUOTAS: &str = "user.pixels.simple-quotas";

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
    /// The default disk limit of pixels in bytes, applied if [`has_cheap_limits`].
    pub disk: Option<u64>,
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

    /// Returns the devices of a new instance: `root` with at most `disk` bytes,
    /// `eth0`, and a gateway's `eth1`.
    pub async fn all(&self, network: &Attachment, disk: Option<u64>) -> Result<Devices> {
        let pool = self.pool().await?;
        let disk = match (disk, network) {
            (None, Attachment::Gateway { .. }) => None,
            (None, _) => self.default_disk(&pool).await?,
            (disk, _) => disk,
        };
        let mut root = pairs(&[("type", "disk"), ("path", "/")]);
        root.insert("pool".into(), pool);
        if let Some(bytes) = disk {
            root.insert(SIZE.into(), bytes.to_string());
        }
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

    /// Returns the default disk limit, if it applies to this pool.
    async fn default_disk(&self, pool: &str) -> Result<Option<u64>> {
        if self.placement.disk.is_none() {
            return Ok(None);
        }
        let path = format!("/1.0/storage-pools/{}", encode(pool));
        let pool: Pool = self.client.get(&path).await?;
        Ok(self.placement.disk.filter(|_| has_cheap_limits(&pool)))
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

/// Whether the pool enforces disk limits without reserving space, and without a
/// noticeable cost for all instances of the pool.
///
/// The first limit on btrfs enables quota groups, unless quotas are enabled. With
/// them, each copy takes several times as long. Simple quotas have no such cost.
pub fn has_cheap_limits(pool: &Pool) -> bool {
    let is_set = |key: &str, value: &str| pool.config.get(key).is_some_and(|it| it == value);
    match pool.driver.as_str() {
        "btrfs" => is_set(SIMPLE_QUOTAS, "true"),
        "lvm" => !is_set("lvm.use_thinpool", "false"),
        "zfs" | "ceph" => true,
        // Plain directories need a file system with project quotas.
        _ => false,
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
