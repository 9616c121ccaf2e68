//! What a server of which release is asked: the one table of methods.

use super::error::Failure;

/// The part of the API that has the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Containers {
    /// `virt.*`, on Incus: names are ids, and every change is a job.
    Virt,
    /// `container.*`, on LXC: numbers are ids; no addresses, no environment,
    /// no limit of memory.
    Lxc,
}

/// How a copy of a container's disk is made.
///
/// The API's own clone of a snapshot is not among them: it mounts what it
/// makes, which fails for the disks of containers, and there is no way to
/// have a container adopt the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloning {
    /// By a command that root on the server runs once.
    Job,
    /// There is no documented way.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    pub major: u32,
    pub minor: u32,
    pub table: &'static Table,
}

/// Methods by what they do.
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
    cloning: Cloning::Job,
    query: "virt.instance.query",
    start: "virt.instance.start",
    stop: "virt.instance.stop",
    delete: "virt.instance.delete",
    snapshots: ZFS,
};

/// Each with the first release it holds for, latest first.
static TABLES: [((u32, u32), Table); 3] = [
    (
        (26, 0),
        Table {
            containers: Containers::Lxc,
            cloning: Cloning::None,
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
    /// Of `TrueNAS-25.10.1`, `25.04-RC.1` and the like; the first two numbers count.
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
                reason: format!("its version {text:?} cannot be told"),
            });
        };
        let found = TABLES.iter().find(|(since, _)| *since <= (major, minor));
        match found {
            Some((_, table)) => Ok(Self {
                major,
                minor,
                table,
            }),
            None => Err(Failure::Unsupported {
                operation: format!("TrueNAS {major}.{minor:02}"),
                reason: "containers came with 25.04".into(),
            }),
        }
    }

    /// Refuses what the API of TrueNAS 26 gives no documented way to do.
    pub fn needs_virt(&self, operation: &str) -> Result<(), Failure> {
        match self.table.containers {
            Containers::Virt => Ok(()),
            Containers::Lxc => Err(Failure::Unsupported {
                operation: operation.to_owned(),
                reason: format!(
                    "TrueNAS {}.{} replaced the API this needs by one that tells neither a \
                     container's address nor keeps what pixels knows of it; 25.04 and 25.10 have it",
                    self.major, self.minor
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_version_finds_its_table() {
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
