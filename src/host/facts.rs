//! Facts about a host, the input of plans and checks. Pure data.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::apt_sources::Source;
use super::kernel_limits::KernelLimit;
use super::plan::BRIDGE_NAME;
pub use crate::backend::incus::wire::{Network, Pool};

#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Facts about this machine. `None` if Incus runs on a remote machine.
    pub local: Option<LocalFacts>,
    pub server: ServerState,
    pub image_server: Reachability,
}

/// Facts about this machine.
#[derive(Debug, Clone, Default)]
pub struct LocalFacts {
    pub linux: bool,
    pub root: bool,
    pub os: OsRelease,
    /// Machine type, as printed by `uname -m`.
    pub machine: String,
    pub systemd: bool,
    pub apt: bool,
    /// The packages that pixels needs and that are installed.
    pub packages: BTreeSet<&'static str>,
    /// Packages with an interrupted installation.
    pub unfinished: Vec<String>,
    pub sources: Vec<Source>,
    /// Whether the configured apt sources contain Incus.
    pub apt_has_incus: bool,
    pub incusd: Option<PathBuf>,
    /// The process id of the Incus daemon for [`LocalFacts::incus_dir`].
    pub daemon_pid: Option<u32>,
    pub incus_dir: PathBuf,
    /// Whether the group `incus-admin` exists.
    pub admin_group: bool,
    pub fuse: bool,
    pub lxcfs_mounted: bool,
    pub kernel_limits: Vec<KernelLimit>,
    /// The text of `/etc/subuid`.
    pub subuid: String,
    /// The text of `/etc/subgid`.
    pub subgid: String,
    /// The highest user id of this machine plus one.
    pub id_limit: u64,
    /// Whether the kernel supports btrfs and loop devices.
    pub btrfs: bool,
    /// Free bytes on the file system of the Incus state directory.
    pub free_disk: u64,
    /// Networks that this machine reaches without the default route.
    pub routes: Vec<Ipv4Net>,
    pub interfaces: Vec<String>,
    /// A number that is constant on a machine and differs between machines.
    pub seed: u64,
}

/// The fields of os-release that pixels uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    pub id: String,
    pub pretty: String,
    pub version_id: String,
    pub codename: String,
}

impl OsRelease {
    pub fn parse(text: &str) -> Self {
        let get = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        Self {
            id: get("ID"),
            pretty: get("PRETTY_NAME"),
            version_id: get("VERSION_ID"),
            codename: get("VERSION_CODENAME"),
        }
    }

    /// Returns the release as a number, such as (12, 0) or (24, 4). `None` for
    /// rolling releases.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.version_id.split('.');
        let major = parts.next()?.parse().ok()?;
        Some((
            major,
            parts.next().and_then(|m| m.parse().ok()).unwrap_or(0),
        ))
    }
}

/// Whether the image server is reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reachability {
    /// Not checked, because the result does not affect the plan.
    NotChecked,
    Reachable {
        /// This machine's clock minus the server's clock, in seconds.
        clock_ahead: Option<i64>,
    },
    /// The image server is not reachable, for this reason.
    Unreachable(String),
}

#[derive(Debug, Clone)]
pub enum ServerState {
    /// The Incus daemon does not answer, for this reason.
    Unreachable(String),
    /// The daemon denies access, for this reason.
    Denied(String),
    Ready(Box<ServerFacts>),
}

impl ServerState {
    pub fn facts(&self) -> Option<&ServerFacts> {
        match self {
            Self::Ready(facts) => Some(facts),
            _ => None,
        }
    }
}

/// Data from the Incus API.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    pub version: String,
    pub extensions: Vec<String>,
    pub clustered: bool,
    /// The storage drivers that the server supports.
    pub drivers: Vec<String>,
    pub pools: Vec<Pool>,
    pub networks: Vec<Network>,
    /// Networks of the server's interfaces. Empty for a local server.
    pub addresses: Vec<Ipv4Net>,
    pub aliases: Vec<String>,
}

impl ServerFacts {
    /// Returns the pool for new instances: the pool `named`, or else the pool
    /// `default`, or else the first pool. Skips pools with errors.
    pub fn usable_pool(&self, named: Option<&str>) -> Option<&Pool> {
        let mut usable = self.pools.iter().filter(|pool| pool.status == "Created");
        match named {
            Some(name) => usable.find(|pool| pool.name == name),
            None => {
                let first = usable.clone().next();
                usable.find(|pool| pool.name == "default").or(first)
            }
        }
    }

    /// Returns the network for new instances: the network `named`, managed or
    /// not, or else the bridge `incusbr0`, or else the first managed bridge
    /// with an address.
    pub fn usable_network(&self, named: Option<&str>) -> Option<&Network> {
        match named {
            Some(name) => self.networks.iter().find(|network| network.name == name),
            None => {
                let is_usable = |n: &&Network| n.managed && n.kind == "bridge" && has_address(n);
                let mut bridges = self.networks.iter().filter(is_usable);
                let first = bridges.clone().next();
                bridges.find(|n| n.name == BRIDGE_NAME).or(first)
            }
        }
    }
}

/// Whether a bridge has an IPv4 address, without which it has no DHCP.
fn has_address(network: &Network) -> bool {
    let address = network.config.get("ipv4.address");
    address.is_some_and(|address| address != "none" && !address.is_empty())
}

pub fn has_dhcp(network: &Network) -> bool {
    let dhcp = network.config.get("ipv4.dhcp");
    has_address(network) && dhcp.is_none_or(|dhcp| dhcp != "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_parses_quoted_and_plain_values() {
        let os = OsRelease::parse(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n\
             VERSION_CODENAME=bookworm\nID=debian\n",
        );
        assert_eq!(
            (os.id.as_str(), os.codename.as_str()),
            ("debian", "bookworm")
        );
        assert_eq!(os.version(), Some((12, 0)));
        let ubuntu = OsRelease::parse("ID=ubuntu\nVERSION_ID='24.04'\n");
        assert_eq!(ubuntu.version(), Some((24, 4)));
        assert_eq!(OsRelease::parse("ID=debian\n").version(), None);
    }

    #[test]
    fn usable_pool_prefers_named_then_default_then_first() {
        let pool = |name: &str, status: &str| Pool {
            name: name.into(),
            status: status.into(),
            ..Pool::default()
        };
        let facts = ServerFacts {
            pools: vec![
                pool("a", "Created"),
                pool("default", "Created"),
                pool("b", "Errored"),
            ],
            ..ServerFacts::default()
        };
        let name = |named| facts.usable_pool(named).map(|p| p.name.as_str());
        assert_eq!(name(None), Some("default"));
        assert_eq!(name(Some("a")), Some("a"));
        assert_eq!(name(Some("b")), None, "a pool with errors is not usable");
    }
}
