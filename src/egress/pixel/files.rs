//! What is put into a pixel, as files. Pure.

use std::net::Ipv4Addr;

use ring::digest;

use super::ruleset;
use crate::egress::policy::ResolvedPolicy;
use crate::egress::render::{self, ResolverListen};
use crate::model::{GuestFile, Ids};

pub(super) const CODE: &str = "/usr/local/lib/pixels/egress";
pub(super) const STATE: &str = "/var/lib/pixels/egress";
const UNITS: &str = "/etc/systemd/system";
const BIN: &str = "/usr/local/bin";
pub(super) const SUDOERS: &str = "/etc/sudoers.d/pixel";
const RESOLVED: &str = "/etc/systemd/resolved.conf.d/pixels-egress.conf";
/// The user `pixel` as it is without a policy.
pub const OPEN_SUDO: &str = include_str!("guest/sudoers-open");
pub(super) const SUDO: &str = include_str!("guest/sudoers");

/// All that bring a network up, each with what makes it wait for the policy.
const NETWORKS: [&str; 6] = [
    "systemd-networkd.service",
    "networking.service",
    "ifup@.service",
    "NetworkManager.service",
    "dhcpcd.service",
    "connman.service",
];

const UNIT_FILES: [(&str, &str); 4] = [
    (
        "pixels-egress.service",
        include_str!("guest/pixels-egress.service"),
    ),
    (
        "pixels-resolver.service",
        include_str!("guest/pixels-resolver.service"),
    ),
    (
        "pixels-upstream.path",
        include_str!("guest/pixels-upstream.path"),
    ),
    (
        "pixels-upstream.service",
        include_str!("guest/pixels-upstream.service"),
    ),
];

/// As `systemctl enable` would: it cannot be asked in a stopped pixel.
const ENABLED: [(&str, &str); 3] = [
    ("sysinit.target.wants", "pixels-egress.service"),
    ("multi-user.target.wants", "pixels-resolver.service"),
    ("multi-user.target.wants", "pixels-upstream.path"),
];

const SCRIPTS: [(&str, &str, &str); 8] = [
    (CODE, "up", include_str!("guest/up.sh")),
    (CODE, "resolver", include_str!("guest/resolver.sh")),
    (CODE, "apply", include_str!("guest/apply.sh")),
    (CODE, "lift", include_str!("guest/lift.sh")),
    (CODE, "check", include_str!("guest/check.sh")),
    (BIN, "safe-apt", include_str!("guest/safe-apt.sh")),
    (
        BIN,
        "safe-systemctl",
        include_str!("guest/safe-systemctl.sh"),
    ),
    (
        BIN,
        "safe-journalctl",
        include_str!("guest/safe-journalctl.sh"),
    ),
];

/// A policy, and everything that enforces it inside a pixel.
#[derive(Debug, Clone)]
pub struct Files {
    /// Of the policy; what is in force is known by it.
    pub id: String,
    /// Differs whenever anything on the disk does.
    pub state: String,
    pub(super) ruleset: String,
    pub(super) resolver: String,
}

impl Files {
    /// `dns`: resolvers that names are asked of, in place of those that the
    /// pixel's network announces.
    pub fn new(policy: &ResolvedPolicy, dns: &[Ipv4Addr]) -> Self {
        let chains = render::chains(policy, &[]);
        let listen = ResolverListen {
            address: None,
            port: ruleset::PORT,
            upstream: dns,
        };
        let user = ruleset::RESOLVER;
        let mut files = Self {
            ruleset: ruleset::ruleset(&chains),
            resolver: format!(
                "user={user}\ngroup={user}\n{}",
                render::resolver(policy, &listen)
            ),
            id: chains.id,
            state: String::new(),
        };
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&version().content);
        for file in files.of_policy(STATE) {
            hash.update(&file.content);
        }
        files.state = render::hex(&hash.finish().as_ref()[..8]);
        files
    }

    /// The two files that say what the policy is, in this directory.
    pub(super) fn of_policy(&self, dir: &str) -> [GuestFile; 2] {
        [
            text(format!("{dir}/ruleset"), 0o644, &self.ruleset),
            text(format!("{dir}/resolver"), 0o644, &self.resolver),
        ]
    }
}

/// The same for every policy: first what is referred to, then who refers to it.
pub(super) fn machinery() -> Vec<GuestFile> {
    let mut files: Vec<GuestFile> = SCRIPTS
        .iter()
        .map(|(dir, name, content)| text(format!("{dir}/{name}"), 0o755, content))
        .collect();
    files.push(text(format!("{CODE}/sudoers"), 0o440, SUDO));
    files.push(text(format!("{CODE}/sudoers-open"), 0o440, OPEN_SUDO));
    for (name, content) in UNIT_FILES {
        files.push(text(format!("{UNITS}/{name}"), 0o644, content));
    }
    files.push(text(
        RESOLVED.into(),
        0o644,
        include_str!("guest/resolved.conf"),
    ));
    for path in drop_ins() {
        files.push(text(path, 0o644, include_str!("guest/network.conf")));
    }
    files
}

/// Differs whenever [`machinery`] does. Written last, so that all of it is there
/// where this is.
pub(super) fn version() -> GuestFile {
    let mut hash = digest::Context::new(&digest::SHA256);
    for file in machinery() {
        hash.update(file.path.as_bytes());
        hash.update(&file.content);
    }
    let version = render::hex(&hash.finish().as_ref()[..8]);
    text(format!("{CODE}/version"), 0o644, &version)
}

/// Links, each with its target.
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

/// Everything there may be, in an order in which the pixel has either its
/// policy or no network until the last of it is gone.
pub(super) fn all() -> Vec<String> {
    let mut paths: Vec<String> = drop_ins().collect();
    paths.push(RESOLVED.to_owned());
    paths.extend(links().into_iter().map(|(link, _)| link));
    paths.extend(UNIT_FILES.map(|(name, _)| format!("{UNITS}/{name}")));
    paths.extend(["ruleset", "resolver"].map(|name| format!("{STATE}/{name}")));
    paths.extend(["version", "sudoers", "sudoers-open"].map(|name| format!("{CODE}/{name}")));
    paths.extend(SCRIPTS.map(|(dir, name, _)| format!("{dir}/{name}")));
    paths
}

fn drop_ins() -> impl Iterator<Item = String> {
    NETWORKS
        .iter()
        .map(|service| format!("{UNITS}/{service}.d/pixels-egress.conf"))
}

pub(super) fn text(path: String, mode: u32, content: &str) -> GuestFile {
    GuestFile {
        path,
        content: content.as_bytes().to_vec(),
        mode,
        owner: Ids::ROOT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[&str], dns: &[Ipv4Addr]) -> Files {
        let policy = ResolvedPolicy {
            open: false,
            lan: false,
            entries: entries.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Files::new(&policy, dns)
    }

    #[test]
    fn what_is_written_is_what_is_removed() {
        let mut written: Vec<String> = machinery().into_iter().map(|file| file.path).collect();
        written.extend(files(&[], &[]).of_policy(STATE).map(|file| file.path));
        written.push(version().path);
        written.extend(links().into_iter().map(|(link, _)| link));
        let mut removed = all();
        written.sort();
        removed.sort();
        assert_eq!(written, removed);
    }

    #[test]
    fn links_are_those_the_units_ask_for() {
        for (target, unit) in ENABLED {
            let (_, content) = UNIT_FILES.iter().find(|(name, _)| *name == unit).unwrap();
            let wanted = format!("WantedBy={}\n", target.strip_suffix(".wants").unwrap());
            assert!(content.ends_with(&wanted), "{unit}");
        }
    }

    #[test]
    fn everybody_means_the_same_resolver() {
        let conf = include_str!("guest/resolved.conf");
        assert!(conf.contains(&format!("\nDNS=127.0.0.1:{}\n", ruleset::PORT)));
        let up = include_str!("guest/up.sh");
        assert!(up.contains(&format!("id -u {} ", ruleset::RESOLVER)));
    }

    #[test]
    fn servers_are_those_of_the_settings_or_left_to_the_pixel() {
        let fixed = files(&["a.example"], &[Ipv4Addr::new(192, 0, 2, 53)]);
        assert!(fixed.resolver.contains("\nserver=/a.example/192.0.2.53\n"));
        let announced = files(&["a.example"], &[]);
        assert!(announced.resolver.contains("\nserver=/a.example/#\n"));
        assert!(!announced.resolver.contains("listen-address"));
        assert_eq!(fixed.id, announced.id);
        assert_ne!(fixed.state, announced.state);
    }

    #[test]
    fn what_a_restricted_pixel_may_do_as_root_is_on_a_list() {
        let rules: Vec<&str> = SUDO.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(rules.len(), 1);
        let (who, commands) = rules[0].split_once(": ").unwrap();
        assert_eq!(who, "pixel ALL=(root) NOPASSWD");
        for command in commands.split(", ") {
            let name = command.strip_prefix("/usr/local/bin/").unwrap();
            assert!(
                SCRIPTS.iter().any(|(_, script, _)| *script == name),
                "{command}"
            );
        }
    }
}
