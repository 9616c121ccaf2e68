//! Writes below a local directory, but never outside the directory.
//!
//! Every path is resolved part by part from an open directory, and no part may
//! be a symbolic link. Files and links are created under a temporary name and
//! renamed after completion: see `temp_file`.
//!
//! `cap-std` cannot replace this code: `cap-std` follows links that stay inside
//! the directory, and cannot create unnamed files or set the owner of a link.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::temp_file::{self, Attributes, TempFile, set_attributes};
use crate::model::{Error, Result};

/// An open directory, with methods to write below the directory.
pub struct ConfinedDir {
    root: OwnedFd,
    /// The open directories on the last path, beginning at the root.
    open: Vec<(OsString, OwnedFd)>,
}

/// The parts of a path below the root. No part may be empty, `.` or `..`.
pub type Parts<'a> = &'a [&'a [u8]];

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

impl ConfinedDir {
    /// Opens a directory. Creates the directory if missing. Follows links in
    /// `root`, because `root` is the user's own argument.
    pub fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened =
            std::fs::create_dir_all(root).and_then(|()| Ok(sys::open(root, flags, Mode::empty())?));
        let failed = |e| Error::io(format!("cannot write to {}", root.display()), e);
        Ok(Self {
            root: opened.map_err(failed)?,
            open: Vec::new(),
        })
    }

    /// Creates a directory if missing. Replaces a link with a directory.
    pub fn create_dir(&mut self, path: Parts<'_>) -> io::Result<()> {
        let Some((name, above)) = path.split_last() else {
            return Ok(());
        };
        let name = OsStr::from_bytes(name);
        let parent = self.open_dir(above)?;
        let mode = Mode::from_raw_mode(0o700);
        match sys::mkdirat(parent, name, mode) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let stat = sys::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(()),
            FileType::Symlink => {
                sys::unlinkat(parent, name, AtFlags::empty())?;
                Ok(sys::mkdirat(parent, name, mode)?)
            }
            _ => Err(io::Error::other("exists and is not a directory")),
        }
    }

    /// Sets mode, times and owner of a directory. Call this method after all
    /// changes to the directory's entries, because such changes update the times.
    pub fn set_dir_attributes(
        &mut self,
        path: Parts<'_>,
        attributes: Attributes,
    ) -> io::Result<()> {
        set_attributes(self.open_dir(path)?, attributes)
    }

    /// Creates a file, which [`TempFile::persist`] completes.
    pub fn create_file(&mut self, path: Parts<'_>) -> io::Result<TempFile> {
        let (parent, name) = self.open_parent(path)?;
        TempFile::create(parent, name)
    }

    /// Creates a symbolic link. Replaces a file or link with the same name.
    pub fn create_symlink(
        &mut self,
        path: Parts<'_>,
        target: &[u8],
        attributes: Attributes,
    ) -> io::Result<()> {
        let (parent, name) = self.open_parent(path)?;
        temp_file::create_symlink(parent, name, OsStr::from_bytes(target), attributes)
    }

    /// Creates a hard link to the file `source`, which is also below this directory.
    pub fn create_hard_link(&mut self, path: Parts<'_>, source: Parts<'_>) -> io::Result<()> {
        let (source_parent, source_name) = self.open_parent(source)?;
        let (parent, name) = self.open_parent(path)?;
        temp_file::create_hard_link(parent, name, &source_parent, &source_name)
    }

    /// Returns the open parent directory of `path`, and the last part of `path`.
    fn open_parent(&mut self, path: Parts<'_>) -> io::Result<(OwnedFd, OsString)> {
        let (name, above) = path.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.open_dir(above)?.try_clone_to_owned()?;
        Ok((parent, OsStr::from_bytes(name).to_owned()))
    }

    /// Opens the directory `path`. Creates missing directories of the path.
    fn open_dir(&mut self, path: Parts<'_>) -> io::Result<BorrowedFd<'_>> {
        let common = self
            .open
            .iter()
            .zip(path)
            .take_while(|((name, _), part)| name.as_encoded_bytes() == **part)
            .count();
        self.open.truncate(common);
        for part in &path[common..] {
            let name = OsStr::from_bytes(part);
            let parent = self.open.last().map_or(&self.root, |(_, dir)| dir);
            let dir = match sys::openat(parent, name, DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => {
                    sys::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                    sys::openat(parent, name, DIRECTORY, Mode::empty())
                }
                outcome => outcome,
            };
            let dir = dir.map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR | Errno::MLINK => {
                    io::Error::other("a parent of the path is not a directory")
                }
                other => other.into(),
            })?;
            self.open.push((name.to_owned(), dir));
        }
        let last = self.open.last().map_or(&self.root, |(_, dir)| dir);
        Ok(last.as_fd())
    }
}
