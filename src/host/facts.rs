//! What is known about a host before anything is decided. Pure data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::apt_sources::Source;
use super::subnet::Subnet;

#[derive(Debug, Clone)]
pub struct HostFacts {
    /// `None` when Incus is on another machine.
    pub local: Option<LocalFacts>,
    pub server: ServerState,
    pub image_server: Reachability,
}

/// This machine.
#[derive(Debug, Clone, Default)]
pub struct LocalFacts {
    pub linux: bool,
    pub root: bool,
    pub os: OsRelease,
    /// As `uname -m`.
    pub machine: String,
    pub systemd: bool,
    pub apt: bool,
    /// Packages of ours whose programs are there.
    pub packages: BTreeSet<&'static str>,
    /// Packages an interrupted installation has left half done.
    pub unfinished: Vec<String>,
    pub sources: Vec<Source>,
    /// apt knows an installable Incus already.
    pub apt_has_incus: bool,
    pub incusd: Option<PathBuf>,
    /// An `incusd` for [`LocalFacts::incus_dir`] is running.
    pub daemon_pid: Option<u32>,
    pub incus_dir: PathBuf,
    /// The group `incus-admin` exists.
    pub admin_group: bool,
    pub fuse: bool,
    pub lxcfs_mounted: bool,
    /// `fs.inotify.max_user_instances`; `None` when we cannot change it.
    pub inotify: Option<u64>,
    /// The texts of `/etc/subuid` and `/etc/subgid`.
    pub subuid: String,
    pub subgid: String,
    /// One more than the highest user id that exists here.
    pub id_limit: u64,
    /// The kernel has btrfs and loop devices.
    pub btrfs: bool,
    /// Bytes free where Incus keeps its data.
    pub free_disk: u64,
    /// Networks this machine reaches other than by its default route.
    pub routes: Vec<Subnet>,
    pub interfaces: Vec<String>,
    /// Differs between machines and never changes on one.
    pub seed: u64,
}

/// How many inotify instances one user may have.
pub const INOTIFY: &str = "/proc/sys/fs/inotify/max_user_instances";
/// With fewer, the twentieth pixel or so cannot start.
pub const INOTIFY_ENOUGH: u64 = 1024;
pub const INOTIFY_GOOD: u64 = 8192;

/// The fields of os-release that matter.
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

    /// The release as a number such as 12.0 or 24.04; `None` for rolling ones.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.version_id.split('.');
        let major = parts.next()?.parse().ok()?;
        Some((
            major,
            parts.next().and_then(|m| m.parse().ok()).unwrap_or(0),
        ))
    }
}

/// Whether a place on the network answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reachability {
    /// The answer would change nothing.
    NotAsked,
    Reachable {
        /// This machine's clock minus the server's, in seconds.
        clock_ahead: Option<i64>,
    },
    Unreachable(String),
}

#[derive(Debug, Clone)]
pub enum ServerState {
    /// Nobody answers.
    Silent(String),
    /// It answers, and does not let us.
    Denied(String),
    Answers(Box<ServerFacts>),
}

impl ServerState {
    pub fn facts(&self) -> Option<&ServerFacts> {
        match self {
            Self::Answers(facts) => Some(facts),
            _ => None,
        }
    }
}

/// What the daemon tells.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    pub version: String,
    pub extensions: Vec<String>,
    pub clustered: bool,
    /// Storage drivers it can use.
    pub drivers: Vec<String>,
    pub pools: Vec<Pool>,
    pub networks: Vec<Network>,
    /// Addresses on its machine's interfaces; only asked of a remote.
    pub addresses: Vec<Subnet>,
    pub aliases: Vec<String>,
}

impl ServerFacts {
    /// The pool instances will be on: the one named, else the one called
    /// `default`, else the first that works.
    pub fn usable_pool(&self, named: Option<&str>) -> Option<&Pool> {
        let mut usable = self.pools.iter().filter(|pool| pool.status == "Created");
        match named {
            Some(name) => usable.find(|pool| pool.name == name),
            None => {
                let all: Vec<&Pool> = usable.collect();
                let default = all.iter().find(|pool| pool.name == "default");
                default.or(all.first()).copied()
            }
        }
    }

    /// The network instances will be on: the one named, managed or not, else
    /// the bridge `incusbr0`, else the first managed bridge.
    pub fn usable_network(&self, named: Option<&str>) -> Option<&Network> {
        match named {
            Some(name) => self.networks.iter().find(|network| network.name == name),
            None => {
                let bridges = || {
                    self.networks
                        .iter()
                        .filter(|n| n.managed && n.kind == "bridge" && n.has_address())
                };
                bridges()
                    .find(|network| network.name == super::plan::BRIDGE_NAME)
                    .or_else(|| bridges().next())
            }
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Pool {
    pub name: String,
    #[serde(default)]
    pub driver: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Network {
    pub name: String,
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub managed: bool,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

impl Network {
    /// The bridge has an IPv4 address of its own, so that it can serve DHCP.
    pub fn has_address(&self) -> bool {
        self.config
            .get("ipv4.address")
            .is_some_and(|address| address != "none" && !address.is_empty())
    }

    pub fn has_dhcp(&self) -> bool {
        self.has_address()
            && self
                .config
                .get("ipv4.dhcp")
                .is_none_or(|dhcp| dhcp != "false")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
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
    fn the_named_the_default_the_first() {
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
        assert_eq!(name(Some("b")), None, "a broken pool is not usable");
    }
}
