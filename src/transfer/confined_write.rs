//! Writing below a local folder without ever leaving it: every step goes from
//! an open folder to an entry in it, and no step goes through a link. Files
//! are made under another name and get theirs when they are whole.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self as sys, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::mtime::Mtime;
use super::walk::os;
use crate::model::Ids;

/// What a file or folder is to be like when it is done.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    pub mode: u32,
    pub modified: Mtime,
    /// `None` leaves it ours.
    pub owner: Option<Ids>,
}

pub struct Tree {
    root: OwnedFd,
    /// The folders last gone through, from the root on.
    open: Vec<(OsString, OwnedFd)>,
}

/// The parts of a path below the root; none of them is `..` or empty.
pub type Parts<'a> = &'a [&'a [u8]];

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

impl Tree {
    /// An existing folder, which the user named: links to it are followed.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self {
            root: sys::open(root, flags, Mode::empty())?,
            open: Vec::new(),
        })
    }

    /// Makes a folder, or leaves the one that is there. In the place of a link
    /// comes a folder.
    pub fn folder(&mut self, parts: Parts<'_>) -> io::Result<()> {
        let Some((name, above)) = parts.split_last() else {
            return Ok(());
        };
        let name = os(name);
        let parent = self.walk(above)?;
        match sys::mkdirat(parent, &name, Mode::from_raw_mode(0o700)) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        match kind(parent, &name)? {
            FileType::Directory => Ok(()),
            FileType::Symlink => {
                sys::unlinkat(parent, &name, AtFlags::empty())?;
                Ok(sys::mkdirat(parent, &name, Mode::from_raw_mode(0o700))?)
            }
            _ => Err(io::Error::other("something else than a folder is there")),
        }
    }

    /// Mode, times and owner of a folder; set when nothing more is put in it.
    pub fn finish_folder(&mut self, parts: Parts<'_>, attributes: Attributes) -> io::Result<()> {
        let folder = self.walk(parts)?;
        apply(folder, attributes)
    }

    /// A file that is not there yet: see [`Unfinished::finish`].
    pub fn file(&mut self, parts: Parts<'_>) -> io::Result<TempFile> {
        let (name, above) = parts.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.walk(above)?.try_clone_to_owned()?;
        let (file, temporary) = match nameless(&parent)? {
            Some(file) => (file, None),
            None => {
                let (file, name) = hidden(&parent)?;
                (file, Some(name))
            }
        };
        Ok(TempFile {
            file: File::from(file),
            place: Place {
                parent,
                temporary,
                name: os(name),
            },
        })
    }

    pub fn link(
        &mut self,
        parts: Parts<'_>,
        target: &[u8],
        attributes: Attributes,
    ) -> io::Result<()> {
        let (name, above) = parts.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.walk(above)?.try_clone_to_owned()?;
        let temporary = temporary();
        sys::symlinkat(os(target), &parent, &temporary)?;
        if let Some(owner) = attributes.owner {
            let (uid, gid) = ids(owner);
            sys::chownat(&parent, &temporary, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let times = times(attributes.modified);
        sys::utimensat(&parent, &temporary, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        let place = Place {
            parent,
            temporary: Some(temporary),
            name: os(name),
        };
        place.take()
    }

    /// One more name for a file in the tree.
    pub fn second_name(&mut self, parts: Parts<'_>, first: Parts<'_>) -> io::Result<()> {
        let (from, above) = first.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let source = self.walk(above)?.try_clone_to_owned()?;
        let (name, above) = parts.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.walk(above)?.try_clone_to_owned()?;
        let temporary = temporary();
        sys::linkat(&source, os(from), &parent, &temporary, AtFlags::empty())?;
        let mut place = Place {
            parent,
            temporary: Some(temporary),
            name: os(name),
        };
        place.rename()?;
        // Between two names of one file a rename does nothing.
        let _ = place.remove();
        Ok(())
    }

    /// The folder at `parts`; folders that are missing are made.
    fn walk(&mut self, parts: Parts<'_>) -> io::Result<BorrowedFd<'_>> {
        let common = self
            .open
            .iter()
            .zip(parts)
            .take_while(|((name, _), part)| name.as_encoded_bytes() == **part)
            .count();
        self.open.truncate(common);
        for part in &parts[common..] {
            let name = os(part);
            let parent = self.open.last().map_or(&self.root, |(_, folder)| folder);
            let folder = match sys::openat(parent, &name, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => {
                    sys::mkdirat(parent, &name, Mode::from_raw_mode(0o755))?;
                    sys::openat(parent, &name, FOLDER, Mode::empty())
                }
                outcome => outcome,
            };
            let folder = folder.map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR | Errno::MLINK => {
                    io::Error::other("the way there leads through something else than folders")
                }
                other => other.into(),
            })?;
            self.open.push((name, folder));
        }
        let last = self.open.last().map_or(&self.root, |(_, folder)| folder);
        Ok(last.as_fd())
    }
}

fn kind(parent: BorrowedFd<'_>, name: &OsString) -> io::Result<FileType> {
    let stat = sys::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn ids(owner: Ids) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(owner.uid)),
        Some(Gid::from_raw(owner.gid)),
    )
}

fn times(modified: Mtime) -> Timestamps {
    let time = Timespec {
        tv_sec: modified.seconds,
        tv_nsec: modified.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The owner first: changing it clears bits of the mode.
fn apply(file: impl AsFd, attributes: Attributes) -> io::Result<()> {
    if let Some(owner) = attributes.owner {
        let (uid, gid) = ids(owner);
        sys::fchown(&file, uid, gid)?;
    }
    #[allow(clippy::useless_conversion, reason = "narrower on other systems")]
    let mode = Mode::from_raw_mode(attributes.mode.try_into().unwrap_or(0));
    sys::fchmod(&file, mode)?;
    Ok(sys::futimens(&file, &times(attributes.modified))?)
}

/// A file without any name, of which nothing stays even when we are killed;
/// `None` where the system or the filesystem has no such thing.
#[cfg(target_os = "linux")]
fn nameless(parent: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    // By which it is named later.
    static LINKS: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| Path::new("/proc/self/fd").exists());
    if !*LINKS {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match sys::openat(parent, ".", flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// See above.
#[cfg(not(target_os = "linux"))]
fn nameless(_: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    Ok(None)
}

/// Gives a nameless file a name that is free.
fn name_it(file: &File, parent: &OwnedFd, name: &OsString) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    // Linking by the descriptor itself is for root alone.
    let ours = format!("/proc/self/fd/{}", file.as_raw_fd());
    sys::linkat(sys::CWD, ours, parent, name, AtFlags::SYMLINK_FOLLOW)
}

/// A file under a name of our own.
fn hidden(parent: &OwnedFd) -> io::Result<(OwnedFd, OsString)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    loop {
        let name = temporary();
        let mode = Mode::from_raw_mode(0o600);
        match sys::openat(parent, &name, flags | OFlags::CLOEXEC, mode) {
            Ok(file) => return Ok((file, name)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn temporary() -> OsString {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!(".pixels-{}-{serial}", std::process::id()).into()
}

/// A file without its final name; it is gone when this is dropped.
pub struct TempFile {
    pub file: File,
    place: Place,
}

impl TempFile {
    /// Gives it its name, in one step, in the place of what is there.
    pub fn finish(mut self, attributes: Attributes) -> io::Result<()> {
        apply(&self.file, attributes)?;
        if self.place.temporary.is_none() {
            match name_it(&self.file, &self.place.parent, &self.place.name) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let name = temporary();
            name_it(&self.file, &self.place.parent, &name)?;
            self.place.temporary = Some(name);
        }
        self.place.take()
    }
}

struct Place {
    parent: OwnedFd,
    /// What it is called until then, if anything.
    temporary: Option<OsString>,
    name: OsString,
}

impl Place {
    fn take(mut self) -> io::Result<()> {
        self.rename()?;
        self.temporary = None;
        Ok(())
    }

    fn rename(&mut self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        match sys::renameat(&self.parent, temporary, &self.parent, &self.name) {
            Err(Errno::ISDIR) => Err(io::Error::other("a folder of that name is there")),
            outcome => Ok(outcome?),
        }
    }

    fn remove(&mut self) -> io::Result<()> {
        match self.temporary.take() {
            Some(name) => Ok(sys::unlinkat(&self.parent, name, AtFlags::empty())?),
            None => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // When it cannot be removed there is nobody to tell.
        let _ = self.remove();
    }
}
