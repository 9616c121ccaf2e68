//! The API methods of the TrueNAS releases.

use crate::model::{Error, Result};

/// The first release with support for containers.
const FIRST: (u32, u32) = (25, 4);

/// A release of TrueNAS: the first two numbers, 25.04 or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    major: u32,
    minor: u32,
}

/// The API methods for snapshots.
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

impl Release {
    /// Parses `TrueNAS-25.10.1`, `25.04-RC.1` and similar text. Reads only the
    /// first two numbers. Fails with `Error::Unsupported` before 25.04.
    pub fn parse(text: &str) -> Result<Self> {
        let numbers: String = text
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        let mut numbers = numbers.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err(Error::Unsupported {
                operation: "this TrueNAS server".into(),
                reason: format!("cannot parse the version {text:?}").into(),
            });
        };
        if (major, minor) < FIRST {
            return Err(Error::Unsupported {
                operation: format!("TrueNAS {major}.{minor:02}"),
                reason: "containers require TrueNAS 25.04 or later".into(),
            });
        }
        Ok(Self { major, minor })
    }

    /// Whether the release has the API `virt.*`, implemented with Incus: instances
    /// are identified by name, and every change is a job. Later releases have
    /// `container.*`, implemented with LXC: instances are identified by number,
    /// without addresses, environment and memory limit.
    pub fn has_virt(&self) -> bool {
        self.major < 26
    }

    pub fn snapshots(&self) -> &'static Snapshots {
        match (self.major, self.minor) < (25, 10) {
            true => &ZFS,
            false => &POOL,
        }
    }

    /// Fails with `Error::Unsupported` if the release does not have `virt.*`.
    pub fn needs_virt(&self, operation: &str) -> Result<()> {
        if self.has_virt() {
            return Ok(());
        }
        Err(Error::Unsupported {
            operation: operation.to_owned(),
            reason: format!(
                "the API of TrueNAS {}.{} neither reports addresses of containers nor stores \
                 properties of pixels; use TrueNAS 25.04 or 25.10",
                self.major, self.minor
            )
            .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_strings_select_methods() {
        for (text, snapshots, has_virt) in [
            ("TrueNAS-25.04.0", ZFS, true),
            ("25.04-RC.1", ZFS, true),
            ("25.04.2.6", ZFS, true),
            ("TrueNAS-SCALE-25.10.1", POOL, true),
            ("26.0.0-BETA.1", POOL, false),
            ("26.0.0-MASTER-20260801-012345", POOL, false),
            ("27.0.0", POOL, false),
        ] {
            let release = Release::parse(text).unwrap();
            assert_eq!(*release.snapshots(), snapshots, "{text}");
            assert_eq!(release.has_virt(), has_virt, "{text}");
            assert_eq!(release.needs_virt("fork").is_ok(), has_virt, "{text}");
        }
        for text in ["24.10.2", "nightly", "", "25"] {
            assert!(Release::parse(text).is_err(), "{text}");
        }
    }
}
