//! The API methods of each TrueNAS release.

use super::error::Failure;

/// The API namespace of the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Containers {
    /// `virt.*`, implemented with Incus: names are ids, every change is a job.
    Virt,
    /// `container.*`, implemented with LXC: numbers are ids. No addresses, no
    /// environment, no memory limit.
    Lxc,
}

/// How the disk of a container is cloned.
///
/// The API's own clone of a snapshot cannot be used: it mounts the clone, which
/// fails for the disks of containers, and no method assigns a clone to a
/// container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloning {
    /// A cron job runs a command as root on the server, once.
    CronJob,
    /// Not possible with documented methods.
    Unsupported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    pub major: u32,
    pub minor: u32,
    pub table: &'static Table,
}

/// The methods by purpose.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub containers: Containers,
    pub cloning: Cloning,
    pub query: &'static str,
    pub start: &'static str,
    pub stop: &'static str,
    pub delete: &'static str,
    pub snapshots: Snapshots,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshots {
    pub query: &'static str,
    pub create: &'static str,
    pub delete: &'static str,
    pub rollback: &'static str,
}

const ZFS: Snapshots = Snapshots {
    query: "zfs.snapshot.query",
    create: "zfs.snapshot.create",
    delete: "zfs.snapshot.delete",
    rollback: "zfs.snapshot.rollback",
};

const POOL: Snapshots = Snapshots {
    query: "pool.snapshot.query",
    create: "pool.snapshot.create",
    delete: "pool.snapshot.delete",
    rollback: "pool.snapshot.rollback",
};

const VIRT: Table = Table {
    containers: Containers::Virt,
    cloning: Cloning::CronJob,
    query: "virt.instance.query",
    start: "virt.instance.start",
    stop: "virt.instance.stop",
    delete: "virt.instance.delete",
    snapshots: ZFS,
};

/// Each table with its first release, latest release first.
static TABLES: [((u32, u32), Table); 3] = [
    (
        (26, 0),
        Table {
            containers: Containers::Lxc,
            cloning: Cloning::Unsupported,
            query: "container.query",
            start: "container.start",
            stop: "container.stop",
            delete: "container.delete",
            snapshots: POOL,
        },
    ),
    (
        (25, 10),
        Table {
            snapshots: POOL,
            ..VIRT
        },
    ),
    ((25, 4), VIRT),
];

impl Release {
    /// Parses `TrueNAS-25.10.1`, `25.04-RC.1` and similar. Only the first two
    /// numbers matter. Fails with `Failure::Unsupported` before 25.04.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let numbers: String = text
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        let mut numbers = numbers.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err(Failure::Unsupported {
                operation: "this TrueNAS server".into(),
                reason: format!("cannot parse its version {text:?}").into(),
            });
        };
        match TABLES.iter().find(|(since, _)| *since <= (major, minor)) {
            Some((_, table)) => Ok(Self {
                major,
                minor,
                table,
            }),
            None => Err(Failure::Unsupported {
                operation: format!("TrueNAS {major}.{minor:02}"),
                reason: "containers require TrueNAS 25.04 or later".into(),
            }),
        }
    }

    /// Fails with `Failure::Unsupported` if the release does not have `virt.*`.
    pub fn needs_virt(&self, operation: &str) -> Result<(), Failure> {
        match self.table.containers {
            Containers::Virt => Ok(()),
            Containers::Lxc => Err(Failure::Unsupported {
                operation: operation.to_owned(),
                reason: format!(
                    "the API of TrueNAS {}.{} neither reports addresses of containers nor \
                     stores properties of pixels; use TrueNAS 25.04 or 25.10",
                    self.major, self.minor
                )
                .into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_strings_select_table() {
        for (text, snapshots, containers) in [
            ("TrueNAS-25.04.0", ZFS.query, Containers::Virt),
            ("25.04-RC.1", ZFS.query, Containers::Virt),
            ("25.04.2.6", ZFS.query, Containers::Virt),
            ("TrueNAS-SCALE-25.10.1", POOL.query, Containers::Virt),
            ("26.0.0-BETA.1", POOL.query, Containers::Lxc),
            ("26.0.0-MASTER-20260801-012345", POOL.query, Containers::Lxc),
            ("27.0.0", POOL.query, Containers::Lxc),
        ] {
            let release = Release::parse(text).unwrap();
            assert_eq!(release.table.snapshots.query, snapshots, "{text}");
            assert_eq!(release.table.containers, containers, "{text}");
        }
        for text in ["24.10.2", "nightly", "", "25"] {
            assert!(Release::parse(text).is_err(), "{text}");
        }
        assert!(
            Release::parse("26.0.0")
                .unwrap()
                .needs_virt("fork")
                .is_err()
        );
    }
}
