//! The files that enforce a policy inside a pixel. Performs no I/O.

use std::net::Ipv4Addr;

use super::ruleset;
use crate::egress::dnsmasq::{self, ResolverListen};
use crate::egress::nftables;
use crate::egress::policy::ResolvedPolicy;
use crate::model::{GuestFile, hex, sha256};

pub(super) const CODE: &str = "/usr/local/lib/pixels/egress";
pub(super) const STATE: &str = "/var/lib/pixels/egress";
const UNITS: &str = "/etc/systemd/system";
const BIN: &str = "/usr/local/bin";
pub(super) const SUDOERS: &str = "/etc/sudoers.d/pixel";
const RESOLVED: &str = "/etc/systemd/resolved.conf.d/pixels-egress.conf";
/// The sudoers file of the user `pixel` if no restricted policy applies.
pub const OPEN_SUDO: &str = include_str!("guest/sudoers-open");
pub(super) const SUDO: &str = include_str!("guest/sudoers");

/// Services that configure networks. A drop-in starts each service after the
/// packet filter.
const NETWORKS: [&str; 6] = [
    "systemd-networkd.service",
    "networking.service",
    "ifup@.service",
    "NetworkManager.service",
    "dhcpcd.service",
    "connman.service",
];

/// Name and content of a file in `guest/`.
macro_rules! guest_file {
    ($name:literal, $suffix:literal) => {
        ($name, include_str!(concat!("guest/", $name, $suffix)))
    };
}

const UNIT_FILES: [(&str, &str); 5] = [
    guest_file!("pixels-egress.service", ""),
    guest_file!("pixels-forwarder.service", ""),
    guest_file!("pixels-resolver.service", ""),
    guest_file!("pixels-upstream.path", ""),
    guest_file!("pixels-upstream.service", ""),
];

/// The links that `systemctl enable` would create in a running pixel.
const ENABLED: [(&str, &str); 4] = [
    ("sysinit.target.wants", "pixels-egress.service"),
    ("multi-user.target.wants", "pixels-forwarder.service"),
    ("multi-user.target.wants", "pixels-resolver.service"),
    ("multi-user.target.wants", "pixels-upstream.path"),
];

const SCRIPTS: [(&str, &str); 6] = [
    guest_file!("load", ".sh"),
    guest_file!("forwarder", ".sh"),
    guest_file!("apply", ".sh"),
    guest_file!("remove", ".sh"),
    guest_file!("check", ".sh"),
    guest_file!("lease", ".sh"),
];

/// The programs that [`SUDO`] allows.
const SAFE_COMMANDS: [(&str, &str); 3] = [
    guest_file!("safe-apt", ".sh"),
    guest_file!("safe-systemctl", ".sh"),
    guest_file!("safe-journalctl", ".sh"),
];

/// Returns the paths and contents of all programs.
fn programs() -> impl Iterator<Item = (String, &'static str)> {
    let scripts = SCRIPTS.map(|(name, content)| (format!("{CODE}/{name}"), content));
    let commands = SAFE_COMMANDS.map(|(name, content)| (format!("{BIN}/{name}"), content));
    scripts.into_iter().chain(commands)
}

/// The files of a policy.
#[derive(Debug, Clone)]
pub struct Files {
    /// [`nftables::Chains::id`], which identifies the applied policy.
    pub id: String,
    /// Hash of all files, including those that do not depend on the policy.
    pub state: String,
    pub(super) ruleset: String,
    pub(super) resolver: String,
    forwarder: String,
}

impl Files {
    /// `dns`: upstream name servers. If empty, the forwarder uses the name
    /// servers that the pixel's network announces.
    pub fn new(policy: &ResolvedPolicy, dns: &[Ipv4Addr]) -> Self {
        let chains = nftables::chains(policy, None);
        let mut files = Self {
            ruleset: ruleset::ruleset(&chains),
            resolver: resolver(policy, ruleset::PORT),
            forwarder: add_user(&dnsmasq::forwarder(ruleset::FORWARDER_PORT, dns)),
            id: chains.id,
            state: String::new(),
        };
        let all = std::iter::once(version()).chain(files.variable_files(STATE));
        files.state = hex(&sha256(all.map(|file| file.content))[..8]);
        files
    }

    /// Returns the files that depend on the policy or on the name servers,
    /// located in `dir`.
    pub fn variable_files(&self, dir: &str) -> [GuestFile; 3] {
        [
            ("ruleset", &self.ruleset),
            ("resolver", &self.resolver),
            ("forwarder", &self.forwarder),
        ]
        .map(|(name, content)| GuestFile::root(format!("{dir}/{name}"), 0o644, &**content))
    }
}

/// Returns the configuration of a resolver.
pub(super) fn resolver(policy: &ResolvedPolicy, port: u16) -> String {
    let listen = ResolverListen {
        address: None,
        port,
        forwarder_port: ruleset::FORWARDER_PORT,
        log: None,
        local_domain: None,
    };
    add_user(&dnsmasq::config(policy, &listen))
}

/// Adds the user and group of the resolvers to a dnsmasq configuration.
fn add_user(config: &str) -> String {
    let user = ruleset::RESOLVER;
    format!("user={user}\ngroup={user}\n{config}")
}

/// Returns the files that do not depend on the policy. Each file follows the
/// files that it refers to.
pub(super) fn common() -> Vec<GuestFile> {
    let mut files: Vec<GuestFile> = programs()
        .map(|(path, content)| GuestFile::root(path, 0o755, content))
        .collect();
    files.push(GuestFile::root(format!("{CODE}/sudoers"), 0o440, SUDO));
    files.push(GuestFile::root(
        format!("{CODE}/sudoers-open"),
        0o440,
        OPEN_SUDO,
    ));
    for (name, content) in UNIT_FILES {
        files.push(GuestFile::root(format!("{UNITS}/{name}"), 0o644, content));
    }
    files.push(GuestFile::root(
        RESOLVED,
        0o644,
        include_str!("guest/resolved.conf"),
    ));
    for path in drop_ins() {
        files.push(GuestFile::root(
            path,
            0o644,
            include_str!("guest/network.conf"),
        ));
    }
    files
}

/// Returns a file with the hash of the [`common`] files. It is written last, so
/// that its content proves that all files are written.
pub(super) fn version() -> GuestFile {
    let parts = common()
        .into_iter()
        .flat_map(|file| [file.path.into_bytes(), file.content]);
    let version = hex(&sha256(parts)[..8]);
    GuestFile::root(format!("{CODE}/version"), 0o644, version)
}

/// Returns the symbolic links and their targets.
pub(super) fn links() -> Vec<(String, String)> {
    ENABLED
        .iter()
        .map(|(target, unit)| {
            (
                format!("{UNITS}/{target}/{unit}"),
                format!("{UNITS}/{unit}"),
            )
        })
        .collect()
}

/// Returns the paths of all files and links in the order of removal. If the
/// removal is interrupted before the last unit is removed, the pixel boots with
/// its policy or without network.
pub(super) fn paths() -> Vec<String> {
    let mut paths: Vec<String> = drop_ins().collect();
    paths.push(RESOLVED.to_owned());
    paths.extend(links().into_iter().map(|(link, _)| link));
    paths.extend(UNIT_FILES.map(|(name, _)| format!("{UNITS}/{name}")));
    paths.extend(["ruleset", "resolver", "forwarder"].map(|name| format!("{STATE}/{name}")));
    paths.extend(["version", "sudoers", "sudoers-open"].map(|name| format!("{CODE}/{name}")));
    paths.extend(programs().map(|(path, _)| path));
    paths
}

fn drop_ins() -> impl Iterator<Item = String> {
    NETWORKS
        .iter()
        .map(|service| format!("{UNITS}/{service}.d/pixels-egress.conf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(rules: &[&str], dns: &[Ipv4Addr]) -> Files {
        Files::new(&ResolvedPolicy::allowing(rules), dns)
    }

    #[test]
    fn removed_paths_equal_written_paths() {
        let mut written: Vec<String> = common().into_iter().map(|file| file.path).collect();
        written.extend(files(&[], &[]).variable_files(STATE).map(|file| file.path));
        written.push(version().path);
        written.extend(links().into_iter().map(|(link, _)| link));
        let mut removed = paths();
        written.sort();
        removed.sort();
        assert_eq!(written, removed);
    }

    #[test]
    fn links_match_wanted_by_of_units() {
        for (target, unit) in ENABLED {
            let (_, content) = UNIT_FILES.iter().find(|(name, _)| *name == unit).unwrap();
            let wanted = format!("WantedBy={}\n", target.strip_suffix(".wants").unwrap());
            assert!(content.ends_with(&wanted), "{unit}");
        }
    }

    #[test]
    fn resolver_port_and_user_agree() {
        let conf = include_str!("guest/resolved.conf");
        assert!(conf.contains(&format!("\nDNS=127.0.0.1:{}\n", ruleset::PORT)));
        let load = include_str!("guest/load.sh");
        assert!(load.contains(&format!("id -u {} ", ruleset::RESOLVER)));
    }

    #[test]
    fn upstream_is_configured_or_announced() {
        let fixed = files(&["a.example"], &[Ipv4Addr::new(192, 0, 2, 53)]);
        assert!(fixed.forwarder.contains("\nserver=192.0.2.53\n"));
        let announced = files(&["a.example"], &[]);
        assert!(announced.forwarder.contains("\nserver=#\n"));
        assert!(!announced.resolver.contains("listen-address"));
        assert_eq!(fixed.resolver, announced.resolver);
        assert_eq!(fixed.id, announced.id);
        assert_ne!(fixed.state, announced.state);
    }

    #[test]
    fn sudoers_allows_only_safe_scripts() {
        let rules: Vec<&str> = SUDO.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(rules.len(), 1);
        let (who, commands) = rules[0].split_once(": ").unwrap();
        assert_eq!(who, "pixel ALL=(root) NOPASSWD");
        let allowed: Vec<String> = commands.split(", ").map(str::to_owned).collect();
        let safe = SAFE_COMMANDS.map(|(name, _)| format!("/usr/local/bin/{name}"));
        assert_eq!(allowed, safe);
    }
}
