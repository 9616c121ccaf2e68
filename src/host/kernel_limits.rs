//! Kernel limits that the host shares with all pixels.
//!
//! The kernel counts inotify and fanotify objects of a pixel also for the host
//! user that created the pixel's user namespace, which is root for every pixel.
//! Open files, AIO requests and neighbor entries have one limit for the whole
//! machine.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::Error;
use super::read_file::read;

/// The file that raises the limits at every boot.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/60-pixels.conf";

/// The first lines of [`SYSCTL_FILE`].
const HEADER: &str = "\
# Written by `pixels setup`. The host and all pixels share these kernel limits:
# with low limits, one pixel can use them up, and then programs of the host and
# of other pixels fail. The memory of inotify, fanotify, files and AIO requests
# counts toward the memory limit of the pixel. The memory of neighbor entries
# (ARP and NDP, about 500 bytes each) does not. When there are more than gc_thresh2
# entries, the kernel deletes entries that were not updated for 5 seconds.
";

/// The highest value that all kernels accept.
const UNLIMITED: u64 = 2_147_483_647;

/// Key and recommended value of every limit.
pub const RECOMMENDED: &[(&str, u64)] = &[
    ("fs.inotify.max_user_instances", UNLIMITED),
    ("fs.inotify.max_user_watches", UNLIMITED),
    ("fs.fanotify.max_user_groups", UNLIMITED),
    ("fs.fanotify.max_user_marks", UNLIMITED),
    ("fs.file-max", UNLIMITED),
    ("fs.aio-max-nr", UNLIMITED),
    ("net.ipv4.neigh.default.gc_thresh1", 8192),
    ("net.ipv4.neigh.default.gc_thresh2", 32_768),
    ("net.ipv4.neigh.default.gc_thresh3", UNLIMITED),
    ("net.ipv6.neigh.default.gc_thresh1", 8192),
    ("net.ipv6.neigh.default.gc_thresh2", 32_768),
    ("net.ipv6.neigh.default.gc_thresh3", UNLIMITED),
];

/// The state of a limit on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLimit {
    pub key: &'static str,
    pub recommended: u64,
    /// `None` if the setting does not exist.
    pub value: Option<u64>,
    /// Whether this process can change the limit.
    pub writable: bool,
}

impl KernelLimit {
    pub fn is_low(&self) -> bool {
        self.value.is_none_or(|value| value < self.recommended)
    }
}

/// A value for a kernel setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: &'static str,
    pub value: u64,
}

/// Returns the text of [`SYSCTL_FILE`].
pub fn file_text(settings: &[Setting]) -> String {
    let lines = settings
        .iter()
        .map(|Setting { key, value }| format!("{key} = {value}\n"));
    std::iter::once(HEADER.to_owned()).chain(lines).collect()
}

/// Joins descriptions of limits for a message. Counts all after the third.
pub fn shorten(limits: &[String]) -> String {
    match limits.split_at_checked(3) {
        Some((shown, more)) if !more.is_empty() => {
            format!("{} and {} more", shown.join(", "), more.len())
        }
        _ => limits.join(", "),
    }
}

fn proc_path(key: &str) -> PathBuf {
    // No name of a setting in this file contains a dot.
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

/// Reads all limits of kernel features that this machine has.
pub fn read_all() -> Result<Vec<KernelLimit>, Error> {
    use rustix::fs::{Access, access};
    let mut limits = Vec::new();
    for &(key, recommended) in RECOMMENDED {
        let path = proc_path(key);
        if path.parent().is_some_and(Path::is_dir) {
            limits.push(KernelLimit {
                key,
                recommended,
                value: read_number(&path)?,
                writable: access(&path, Access::WRITE_OK).is_ok(),
            });
        }
    }
    Ok(limits)
}

fn read_number(path: &Path) -> Result<Option<u64>, Error> {
    Ok(read(path)?.and_then(|text| text.trim().parse().ok()))
}

/// Raises the limits that are lower than `settings`. Fails with the error of
/// the first setting that the kernel does not accept, after trying all.
pub fn raise(settings: &[Setting]) -> Result<(), Error> {
    let mut outcome = Ok(());
    for setting in settings {
        outcome = outcome.and(raise_one(&proc_path(setting.key), setting.value));
    }
    outcome
}

fn raise_one(path: &Path, value: u64) -> Result<(), Error> {
    let is_low = || Ok(read_number(path)?.is_none_or(|current| current < value));
    if !is_low()? {
        return Ok(());
    }
    let failed = |error| Error::file("cannot write", path, error);
    std::fs::write(path, value.to_string()).map_err(failed)?;
    // Some kernels ignore values without an error.
    match is_low()? {
        true => Err(failed(io::Error::other("the kernel ignores the value"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorten_counts_limits_after_the_third() {
        let limits = ["a", "b", "c", "d", "e"].map(String::from);
        assert_eq!(shorten(&limits), "a, b, c and 2 more");
        assert_eq!(shorten(&limits[..3]), "a, b, c");
        assert_eq!(shorten(&limits[..1]), "a");
    }

    #[test]
    fn raise_never_lowers_and_reports_ignored_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("limit");
        for (before, after) in [("65536\n", "70000"), ("70000\n", "70000\n")] {
            std::fs::write(&path, before).unwrap();
            raise_one(&path, 70_000).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
        let error = raise_one(Path::new("/dev/null"), 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot write /dev/null: the kernel ignores the value"
        );
    }
}
