//! Directory entries that get their final name atomically: files, symbolic
//! links and hard links with a temporary name, or unnamed files.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self as sys, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::mtime::Mtime;
use crate::model::Ids;

/// The attributes of a completed file, directory or link.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    pub mode: u32,
    pub mtime: Mtime,
    /// The owner. `None` means the user of this process.
    pub owner: Option<Ids>,
}

/// Sets mode, times and owner of a file or directory.
pub(super) fn set_attributes(file: impl AsFd, attributes: Attributes) -> io::Result<()> {
    // The owner is set first, because a change of the owner clears mode bits.
    if let Some(owner) = attributes.owner {
        let (uid, gid) = ids(owner);
        sys::fchown(&file, uid, gid)?;
    }
    #[allow(clippy::useless_conversion, reason = "narrower on other systems")]
    let mode = Mode::from_raw_mode(attributes.mode.try_into().unwrap_or(0));
    sys::fchmod(&file, mode)?;
    Ok(sys::futimens(&file, &times(attributes.mtime))?)
}

fn ids(owner: Ids) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(owner.uid)),
        Some(Gid::from_raw(owner.gid)),
    )
}

fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// A file before it gets its final name. Dropping this value deletes the file.
pub struct TempFile {
    pub file: File,
    entry: TempEntry,
}

impl TempFile {
    /// Creates a file in `parent`, which [`persist`](Self::persist) names `name`.
    /// The file is unnamed if the system supports that, so that no file remains
    /// after SIGKILL. Otherwise the file has a hidden temporary name.
    pub(super) fn create(parent: OwnedFd, name: OsString) -> io::Result<Self> {
        let (file, temporary) = match open_nameless(&parent)? {
            Some(file) => (file, None),
            None => {
                let (file, temporary) = open_hidden(&parent)?;
                (file, Some(temporary))
            }
        };
        Ok(Self {
            file: File::from(file),
            entry: TempEntry {
                parent,
                temporary,
                name,
            },
        })
    }

    /// Sets the attributes, then atomically gives the file its final name. Replaces
    /// a file or link with that name. Fails if a directory has that name.
    pub fn persist(mut self, attributes: Attributes) -> io::Result<()> {
        set_attributes(&self.file, attributes)?;
        if self.entry.temporary.is_none() {
            match link_nameless(&self.file, &self.entry.parent, &self.entry.name) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let temporary = temporary_name();
            link_nameless(&self.file, &self.entry.parent, &temporary)?;
            self.entry.temporary = Some(temporary);
        }
        self.entry.rename()
    }
}

/// Creates a symbolic link atomically, like [`TempFile::persist`].
pub(super) fn create_symlink(
    parent: OwnedFd,
    name: OsString,
    target: &std::ffi::OsStr,
    attributes: Attributes,
) -> io::Result<()> {
    let temporary = temporary_name();
    sys::symlinkat(target, &parent, &temporary)?;
    if let Some(owner) = attributes.owner {
        let (uid, gid) = ids(owner);
        sys::chownat(&parent, &temporary, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let times = times(attributes.mtime);
    sys::utimensat(&parent, &temporary, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    TempEntry::new(parent, temporary, name).rename()
}

/// Creates a hard link to `source_name` atomically, like [`TempFile::persist`].
pub(super) fn create_hard_link(
    parent: OwnedFd,
    name: OsString,
    source_parent: &OwnedFd,
    source_name: &std::ffi::OsStr,
) -> io::Result<()> {
    let temporary = temporary_name();
    sys::linkat(
        source_parent,
        source_name,
        &parent,
        &temporary,
        AtFlags::empty(),
    )?;
    TempEntry::new(parent, temporary, name).rename()
}

/// An entry of `parent` with a temporary name. Dropping this value deletes it.
struct TempEntry {
    parent: OwnedFd,
    /// The temporary name. `None` means an unnamed file.
    temporary: Option<OsString>,
    name: OsString,
}

impl TempEntry {
    fn new(parent: OwnedFd, temporary: OsString, name: OsString) -> Self {
        Self {
            parent,
            temporary: Some(temporary),
            name,
        }
    }

    /// Renames the entry. A rename between two names of the same file has no
    /// effect, and dropping `self` then removes the temporary name.
    fn rename(self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        match sys::renameat(&self.parent, temporary, &self.parent, &self.name) {
            Err(Errno::ISDIR) => Err(io::Error::other("a directory with that name exists")),
            outcome => Ok(outcome?),
        }
    }
}

impl Drop for TempEntry {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Fails after a successful rename. Other failures cannot be handled here.
            let _ = sys::unlinkat(&self.parent, name, AtFlags::empty());
        }
    }
}

/// Creates an unnamed file. Returns `None` if the system or the file system
/// does not support unnamed files.
#[cfg(target_os = "linux")]
fn open_nameless(parent: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    // `link_nameless` requires /proc.
    static HAS_PROC: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| Path::new("/proc/self/fd").exists());
    if !*HAS_PROC {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match sys::openat(parent, ".", flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_nameless(_: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    Ok(None)
}

/// Names an unnamed file. Fails if the name already exists.
fn link_nameless(file: &File, parent: &OwnedFd, name: &OsString) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    // A link from the descriptor itself (AT_EMPTY_PATH) requires a capability.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    sys::linkat(sys::CWD, path, parent, name, AtFlags::SYMLINK_FOLLOW)
}

/// Creates a file with a temporary name.
fn open_hidden(parent: &OwnedFd) -> io::Result<(OwnedFd, OsString)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    loop {
        let name = temporary_name();
        let mode = Mode::from_raw_mode(0o600);
        match sys::openat(parent, &name, flags | OFlags::CLOEXEC, mode) {
            Ok(file) => return Ok((file, name)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns a hidden name that is unique in this process.
fn temporary_name() -> OsString {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!(".pixels-{}-{serial}", std::process::id()).into()
}
