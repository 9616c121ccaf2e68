//! The Debian packages a host needs. A package counts as installed if one of
//! its programs exists, whatever installed the program.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Directories searched for programs. The last one belongs to the packages of
/// the Incus project.
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
pub const CLIENT: &str = "incus-client";
pub const BTRFS: &str = "btrfs-progs";
/// Needed to run instances.
const RUNTIME: &[&str] = &[
    INCUS,
    "nftables",
    "dnsmasq-base",
    "iproute2",
    "uidmap",
    "attr",
    "rsync",
    "squashfs-tools",
    "xz-utils",
    "lxcfs",
];
pub const BRIDGE: &[&str] = &["nftables", "dnsmasq-base", "iproute2"];
pub const BUILD: &[&str] = &["debootstrap", "squashfs-tools", "xz-utils"];

/// Package name and a program of the package.
const PROGRAMS: &[(&str, &str)] = &[
    (INCUS, "incusd"),
    (CLIENT, "incus"),
    (BTRFS, "mkfs.btrfs"),
    ("nftables", "nft"),
    ("dnsmasq-base", "dnsmasq"),
    ("iproute2", "ip"),
    ("uidmap", "newuidmap"),
    ("attr", "setfattr"),
    ("rsync", "rsync"),
    ("squashfs-tools", "mksquashfs"),
    ("xz-utils", "xz"),
    ("lxcfs", "lxcfs"),
    ("debootstrap", "debootstrap"),
];

/// What packages are needed for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// To run the Incus daemon and instances.
    pub daemon: bool,
    pub client: bool,
    pub pool: bool,
    pub bridge: bool,
    pub image: bool,
}

/// The packages that `purpose` needs and `present` lacks, in a fixed order.
pub fn missing(present: &BTreeSet<&'static str>, purpose: Purpose) -> Vec<&'static str> {
    let wanted = |package: &str| {
        purpose.daemon && RUNTIME.contains(&package)
            || purpose.client && package == CLIENT
            || purpose.pool && package == BTRFS
            || purpose.bridge && BRIDGE.contains(&package)
            || purpose.image && BUILD.contains(&package)
    };
    PROGRAMS
        .iter()
        .map(|(package, _)| *package)
        .filter(|package| wanted(package) && !present.contains(package))
        .collect()
}

/// The packages whose program is found by `find`.
pub fn present(find: impl Fn(&str) -> Option<PathBuf>) -> BTreeSet<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(_, program)| find(program).is_some())
        .map(|(package, _)| *package)
        .collect()
}

/// The path of a program on this machine.
pub fn find(program: &str) -> Option<PathBuf> {
    PROGRAM_DIRS
        .iter()
        .map(|dir| PathBuf::from(dir).join(program))
        .find(|path| path.is_file())
}

/// Packages with an unfinished installation, from the text of dpkg's status
/// file.
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

    const NO_PURPOSE: Purpose = Purpose {
        daemon: false,
        client: false,
        pool: false,
        bridge: false,
        image: false,
    };

    #[test]
    fn missing_lists_what_the_purpose_needs_and_the_host_lacks() {
        let none = BTreeSet::new();
        assert!(missing(&none, NO_PURPOSE).is_empty());
        let image = Purpose {
            image: true,
            ..NO_PURPOSE
        };
        assert_eq!(
            missing(&none, image),
            ["squashfs-tools", "xz-utils", "debootstrap"]
        );
        assert_eq!(
            missing(&BTreeSet::from(["xz-utils", "debootstrap"]), image),
            ["squashfs-tools"]
        );
    }

    #[test]
    fn every_package_has_a_known_program() {
        for package in RUNTIME.iter().chain(BRIDGE).chain(BUILD) {
            assert!(PROGRAMS.iter().any(|(p, _)| p == package), "{package}");
        }
    }

    #[test]
    fn unfinished_lists_half_configured_packages() {
        let status = "Package: a\nStatus: install ok installed\n\n\
            Package: b\nStatus: install ok half-configured\n\n\
            Package: c\nStatus: deinstall ok config-files\n";
        assert_eq!(unfinished(status), ["b"]);
    }
}
