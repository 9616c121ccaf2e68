//! Unpacks a pixel's tar archive on this machine.
//!
//! Root in the pixel controls the archive. Unpacking never writes outside the
//! destination, whatever names and links the archive contains. Devices are
//! skipped. Set-user-ID bits are removed unless `--archive` is used.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use super::confined_write::ConfinedDir;
use super::mtime::Mtime;
use super::temp_file::Attributes;
use super::{Ownership, Report, TransferProgress};
use crate::model::{Error, Ids, Result};

/// Limit for the bytes between two files' contents: headers, long names and
/// lists of holes.
const MAX_HEADERS: u64 = 16 * 1024 * 1024;
const BUFFER: usize = 128 * 1024;
/// Blocks of zeros with this size become holes of a sparse file.
const HOLE: usize = 4096;

pub struct UnpackOptions {
    /// The destination directory, which is created if missing.
    pub root: PathBuf,
    /// The replacement for the first part of every name in the archive.
    pub top: Option<Vec<u8>>,
    /// The owners of unpacked files. [`Ownership::Kept`] requires root.
    pub ownership: Ownership,
    /// Exact modification times by path below `root`, because an archive has only
    /// whole seconds.
    pub mtimes: HashMap<Vec<u8>, Mtime>,
}

/// Unpacks all entries of the archive below `options.root`. Fails with
/// [`Error::Protocol`] if the archive is malformed or contains a path outside, with
/// [`Error::Io`] if an entry cannot be written, and with [`Error::Cancelled`] when
/// `progress` is canceled. Complete files remain after a failure.
pub fn unpack(
    archive: impl Read,
    options: &UnpackOptions,
    progress: &TransferProgress,
) -> Result<Report> {
    let budget = Rc::new(Cell::new(MAX_HEADERS));
    let reader = LimitedReader {
        inner: archive,
        budget: Rc::clone(&budget),
    };
    let mut unpacker = Unpacker {
        dir: ConfinedDir::open(&options.root)?,
        options,
        progress,
        budget,
        files: HashSet::new(),
        dirs: BTreeMap::new(),
        report: Report::default(),
        buffer: vec![0; BUFFER],
    };
    let mut archive = Archive::new(reader);
    for entry in archive.entries().map_err(malformed)? {
        unpacker.add(entry.map_err(malformed)?)?;
    }
    unpacker.finish()
}

fn malformed(error: io::Error) -> Error {
    Error::Protocol(format!("malformed archive from the pixel: {error}"))
}

fn rejected(name: &[u8], reason: &str) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::Protocol(format!("the archive from the pixel has {reason}: {name:?}"))
}

pub(super) fn cannot_write(path: &[u8], error: io::Error) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::io(format!("cannot write {path:?}"), error)
}

/// A reader with a byte budget for headers, which the tar crate reads into memory.
/// Fails when the budget is used up. The budget is unlimited during file contents.
struct LimitedReader<R> {
    inner: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        match self.budget.get().checked_sub(got as u64) {
            Some(left) => self.budget.set(left),
            None => return Err(io::Error::other("extension headers exceed the limit")),
        }
        Ok(got)
    }
}

struct Unpacker<'a> {
    dir: ConfinedDir,
    options: &'a UnpackOptions,
    progress: &'a TransferProgress,
    budget: Rc<Cell<u64>>,
    // The size of `files` and `dirs` is bounded by the entries on disk: a repeated
    // path in the archive adds no element.
    /// Files from this archive, which hard links may refer to.
    files: HashSet<Vec<u8>>,
    /// Attributes of directories, which are set after the last entry.
    dirs: BTreeMap<Vec<u8>, Attributes>,
    report: Report,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn add<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<()> {
        self.progress.check_cancelled()?;
        let path = self.destination(&entry.path_bytes())?;
        let attributes = self.attributes(&entry, &path)?;
        let parts = parts(&path);
        let failed = |e| cannot_write(&path, e);
        match entry.header().entry_type() {
            EntryType::Directory => {
                if !parts.is_empty() {
                    self.dir.create_dir(&parts).map_err(failed)?;
                    self.dirs.insert(path.clone(), attributes);
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.write_file(&mut entry, &path, attributes)?;
                self.files.insert(path.clone());
                self.report.files += 1;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                if target.is_empty() || target.contains(&0) {
                    return Err(rejected(&path, "a link without a valid target"));
                }
                self.dir
                    .create_symlink(&parts, &target, attributes)
                    .map_err(failed)?;
                self.report.files += 1;
            }
            EntryType::Link => {
                let source = self.destination(&entry.link_name_bytes().unwrap_or_default())?;
                if !self.files.contains(&source) {
                    return Err(rejected(
                        &path,
                        "a hard link to a file that is not in the archive",
                    ));
                }
                let source = self::parts(&source);
                self.dir.create_hard_link(&parts, &source).map_err(failed)?;
                self.files.insert(path.clone());
                self.report.files += 1;
            }
            _ => self.report.skipped += 1,
        }
        self.budget.set(MAX_HEADERS);
        Ok(())
    }

    /// Returns the path below the destination for a name in the archive. Fails if
    /// the path is outside the destination.
    fn destination(&self, name: &[u8]) -> Result<Vec<u8>> {
        if name.first() == Some(&b'/') {
            return Err(rejected(name, "an absolute path"));
        }
        if name.contains(&0) {
            return Err(rejected(name, "a path with a zero byte"));
        }
        let mut parts = parts(name);
        if parts.iter().any(|part| *part == b"..") {
            return Err(rejected(name, "a path with \"..\""));
        }
        if let Some(top) = &self.options.top {
            match parts.first_mut() {
                Some(first) => *first = top,
                None => parts.push(top),
            }
        }
        Ok(parts.join(&b'/'))
    }

    fn attributes<R: Read>(&self, entry: &Entry<'_, R>, path: &[u8]) -> Result<Attributes> {
        let header = entry.header();
        let id = |field: io::Result<u64>| {
            let number = field.map_err(malformed)?;
            u32::try_from(number).map_err(|e| malformed(io::Error::other(e)))
        };
        let (owner, mode_bits) = match self.options.ownership {
            Ownership::Kept => {
                let (uid, gid) = (id(header.uid())?, id(header.gid())?);
                (Some(Ids { uid, gid }), 0o7777)
            }
            Ownership::One(_) => (None, 0o777),
        };
        let seconds = header.mtime().map_err(malformed)?;
        let mtime = Mtime::from_seconds(i64::try_from(seconds).unwrap_or(0));
        let exact = self.options.mtimes.get(path).copied();
        Ok(Attributes {
            mode: header.mode().map_err(malformed)? & mode_bits,
            mtime: exact.filter(|exact| exact.matches(mtime)).unwrap_or(mtime),
            owner,
        })
    }

    fn write_file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &[u8],
        attributes: Attributes,
    ) -> Result<()> {
        let failed = |e| cannot_write(path, e);
        let sparse = entry.header().entry_type() == EntryType::GNUSparse;
        let size = entry.size();
        let mut temp = self.dir.create_file(&parts(path)).map_err(failed)?;
        self.budget.set(u64::MAX);
        let mut length = 0u64;
        loop {
            self.progress.check_cancelled()?;
            let got = entry.read(&mut self.buffer).map_err(malformed)?;
            if got == 0 {
                break;
            }
            length += got as u64;
            let data = &self.buffer[..got];
            if sparse {
                write_with_holes(&mut temp.file, data).map_err(failed)?;
            } else {
                temp.file.write_all(data).map_err(failed)?;
            }
            self.progress.add_done(got as u64);
        }
        if length != size {
            return Err(malformed(io::Error::other(format!(
                "{:?} has {length} of {size} bytes",
                String::from_utf8_lossy(path)
            ))));
        }
        if sparse {
            temp.file.set_len(size).map_err(failed)?;
        }
        temp.persist(attributes).map_err(failed)?;
        self.report.bytes += length;
        Ok(())
    }

    fn finish(mut self) -> Result<Report> {
        // Entries before their parents, because a parent's mode may deny access.
        for (path, attributes) in self.dirs.into_iter().rev() {
            self.dir
                .set_dir_attributes(&parts(&path), attributes)
                .map_err(|e| cannot_write(&path, e))?;
        }
        Ok(self.report)
    }
}

/// Splits a path into parts, without empty parts and `.`.
pub fn parts(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect()
}

fn write_with_holes(file: &mut std::fs::File, data: &[u8]) -> io::Result<()> {
    for block in data.chunks(HOLE) {
        if block.len() == HOLE && block.iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Current(HOLE as i64))?;
        } else {
            file.write_all(block)?;
        }
    }
    Ok(())
}
