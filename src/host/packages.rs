//! The Debian packages that a host needs. A package counts as installed if its
//! program exists, even if installed in another way.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Directories that are searched for programs. Packages of the Incus project
/// use the last directory.
pub const PROGRAM_DIRS: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/libexec/incus",
    "/usr/lib/incus",
    "/opt/incus/bin",
];

pub const INCUS: &str = "incus-base";

/// The purpose of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The Incus daemon, and running instances.
    Daemon,
    /// The `incus` command.
    Client,
    /// A btrfs storage pool.
    Pool,
    Bridge,
    /// Image builds.
    Image,
}

use Purpose::{Bridge, Client, Daemon, Image, Pool};

/// Name of a package, a program of the package, and its purposes.
const PACKAGES: &[(&str, &str, &[Purpose])] = &[
    (INCUS, "incusd", &[Daemon]),
    ("incus-client", "incus", &[Client]),
    ("btrfs-progs", "mkfs.btrfs", &[Pool]),
    ("nftables", "nft", &[Daemon, Bridge]),
    ("dnsmasq-base", "dnsmasq", &[Daemon, Bridge]),
    ("iproute2", "ip", &[Daemon, Bridge]),
    ("uidmap", "newuidmap", &[Daemon]),
    ("attr", "setfattr", &[Daemon]),
    ("rsync", "rsync", &[Daemon]),
    ("squashfs-tools", "mksquashfs", &[Daemon, Image]),
    ("xz-utils", "xz", &[Daemon, Image]),
    ("lxcfs", "lxcfs", &[Daemon]),
    ("debootstrap", "debootstrap", &[Image]),
];

/// Returns the packages that the purposes need and that are not in `present`,
/// in a fixed order.
pub fn missing(present: &BTreeSet<&'static str>, purposes: &[Purpose]) -> Vec<&'static str> {
    PACKAGES
        .iter()
        .filter(|(_, _, needed_for)| needed_for.iter().any(|p| purposes.contains(p)))
        .map(|(package, _, _)| *package)
        .filter(|package| !present.contains(package))
        .collect()
}

/// Returns the packages whose program `find` finds.
pub fn present(find: impl Fn(&str) -> Option<PathBuf>) -> BTreeSet<&'static str> {
    PACKAGES
        .iter()
        .filter(|(_, program, _)| find(program).is_some())
        .map(|(package, _, _)| *package)
        .collect()
}

/// Returns the path of a program on this machine.
pub fn find(program: &str) -> Option<PathBuf> {
    PROGRAM_DIRS
        .iter()
        .map(|dir| PathBuf::from(dir).join(program))
        .find(|path| path.is_file())
}

/// Returns packages with an unfinished installation, from the text of dpkg's
/// status file.
pub fn unfinished(status: &str) -> Vec<String> {
    let mut package = "";
    let mut found = Vec::new();
    for line in status.lines() {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = name;
        } else if let Some(state) = line.strip_prefix("Status: ") {
            let last = state.split_whitespace().last().unwrap_or_default();
            if !matches!(last, "installed" | "not-installed" | "config-files") {
                found.push(package.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_lists_what_the_purpose_needs_and_the_host_lacks() {
        let none = BTreeSet::new();
        assert!(missing(&none, &[]).is_empty());
        assert_eq!(
            missing(&none, &[Image]),
            ["squashfs-tools", "xz-utils", "debootstrap"]
        );
        assert_eq!(
            missing(&BTreeSet::from(["xz-utils", "debootstrap"]), &[Image]),
            ["squashfs-tools"]
        );
    }

    #[test]
    fn unfinished_lists_half_configured_packages() {
        let status = "Package: a\nStatus: install ok installed\n\n\
            Package: b\nStatus: install ok half-configured\n\n\
            Package: c\nStatus: deinstall ok config-files\n";
        assert_eq!(unfinished(status), ["b"]);
    }
}
