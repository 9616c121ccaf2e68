//! The packages a host needs, each known by a program it brings: a program
//! that is there counts, wherever it came from.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Directories programs are looked for in. The last is where the Incus
/// project's own packages keep theirs.
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
/// For instances to run at all.
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

/// Package and program.
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

/// What will be done, as far as packages matter.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// No daemon answers yet.
    pub daemon: bool,
    pub client: bool,
    pub pool: bool,
    pub bridge: bool,
    pub image: bool,
}

/// The packages to install, in a stable order.
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

/// The packages whose programs `find` finds.
pub fn present(find: impl Fn(&str) -> Option<PathBuf>) -> BTreeSet<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(_, program)| find(program).is_some())
        .map(|(package, _)| *package)
        .collect()
}

/// Where a program is on this machine.
pub fn find(program: &str) -> Option<PathBuf> {
    PROGRAM_DIRS
        .iter()
        .map(|dir| PathBuf::from(dir).join(program))
        .find(|path| path.is_file())
}

/// Packages that dpkg has begun to install and not finished, from its status
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

    const NOTHING: Purpose = Purpose {
        daemon: false,
        client: false,
        pool: false,
        bridge: false,
        image: false,
    };

    #[test]
    fn only_what_a_purpose_needs_and_lacks() {
        let none = BTreeSet::new();
        assert!(missing(&none, NOTHING).is_empty());
        let image = Purpose {
            image: true,
            ..NOTHING
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
    fn everything_wanted_has_a_program_to_know_it_by() {
        for package in RUNTIME.iter().chain(BRIDGE).chain(BUILD) {
            assert!(PROGRAMS.iter().any(|(p, _)| p == package), "{package}");
        }
    }

    #[test]
    fn unfinished_packages_are_named() {
        let status = "Package: a\nStatus: install ok installed\n\n\
            Package: b\nStatus: install ok half-configured\n\n\
            Package: c\nStatus: deinstall ok config-files\n";
        assert_eq!(unfinished(status), ["b"]);
    }
}
