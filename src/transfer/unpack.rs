//! An archive from a pixel onto this machine. Root in the pixel may have made
//! it up: nothing in it is written outside the destination, whatever its names
//! and links say, and it brings neither devices nor set-user-ID programs.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use super::confined_write::{Attributes, Tree};
use super::mtime::Mtime;
use super::{Ownership, Report, TransferProgress};
use crate::model::{Error, Ids, Result};

/// Bytes between the contents of two files: headers, long names, lists of holes.
const HEADERS: u64 = 16 * 1024 * 1024;
const CHUNK: usize = 128 * 1024;
/// Files are written around stretches of zeros of this size.
const HOLE: usize = 4096;

/// How the names in an archive become names below the tree.
pub enum OwnerMapping {
    /// As they are.
    Kept,
    /// Its one entry at the top is called this here.
    Top(Vec<u8>),
}

/// What becomes of what comes.
pub struct UnpackTarget {
    pub naming: OwnerMapping,
    /// Kept numbers need root; else all is ours.
    pub ownership: Ownership,
    /// By path below the tree, where more is known than the archive tells:
    /// its times are whole seconds.
    pub times: HashMap<Vec<u8>, Mtime>,
}

/// Writes all entries of the archive below `tree`.
pub fn unpack(
    from: impl Read,
    tree: &mut Tree,
    arrival: &UnpackTarget,
    meter: &TransferProgress,
) -> Result<Report> {
    let budget = Rc::new(Cell::new(HEADERS));
    let from = Limited {
        from,
        budget: Rc::clone(&budget),
    };
    let mut unpacker = Unpacker {
        tree,
        arrival,
        kept: arrival.ownership == Ownership::Kept,
        meter,
        budget,
        files: HashSet::new(),
        folders: BTreeMap::new(),
        report: Report::default(),
        buffer: vec![0; CHUNK],
    };
    let mut archive = Archive::new(from);
    let entries = archive.entries().map_err(broken)?;
    for entry in entries {
        unpacker.add(entry.map_err(broken)?)?;
    }
    unpacker.finish()
}

fn broken(error: io::Error) -> Error {
    Error::Protocol(format!("the archive from the pixel: {error}"))
}

/// Headers may not be endless; contents have a length that is watched.
struct Limited<R> {
    from: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        match self.budget.get().checked_sub(got as u64) {
            Some(left) => self.budget.set(left),
            None => return Err(io::Error::other("too much between two files")),
        }
        Ok(got)
    }
}

struct Unpacker<'a> {
    tree: &'a mut Tree,
    arrival: &'a UnpackTarget,
    kept: bool,
    meter: &'a TransferProgress,
    budget: Rc<Cell<u64>>,
    // Both have an entry for each name, however often the archive brings it, so
    // they are as large as what is on the disk by now.
    /// Files of this archive, which others may be further names of.
    files: HashSet<Vec<u8>>,
    /// Attributes of folders wait until nothing more is put in.
    folders: BTreeMap<Vec<u8>, Attributes>,
    report: Report,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn add<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<()> {
        self.meter.check_cancelled().map_err(|_| Error::Cancelled)?;
        let path = self.place(&entry.path_bytes())?;
        let attributes = self.attributes(&entry, &path)?;
        let parts = parts(&path);
        let failed = |e| Error::io(format!("writing {}", String::from_utf8_lossy(&path)), e);
        match entry.header().entry_type() {
            EntryType::Directory => {
                if !parts.is_empty() {
                    self.tree.folder(&parts).map_err(failed)?;
                    self.folders.insert(path.clone(), attributes);
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&mut entry, &parts, attributes)?;
                self.files.insert(path.clone());
                self.report.files += 1;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                if target.is_empty() || target.contains(&0) {
                    return Err(refused(&path, "a link that leads to nothing"));
                }
                let made = self.tree.link(&parts, &target, attributes);
                made.map_err(failed)?;
                self.report.files += 1;
            }
            EntryType::Link => {
                let first = self.place(&entry.link_name_bytes().unwrap_or_default())?;
                if !self.files.contains(&first) {
                    return Err(refused(
                        &path,
                        "a further name of something it did not bring",
                    ));
                }
                let first = self::parts(&first);
                self.tree.second_name(&parts, &first).map_err(failed)?;
                self.files.insert(path.clone());
                self.report.files += 1;
            }
            _ => self.report.skipped += 1,
        }
        self.budget.set(HEADERS);
        Ok(())
    }

    /// The path of an entry below the tree, checked.
    fn place(&self, name: &[u8]) -> Result<Vec<u8>> {
        if name.first() == Some(&b'/') {
            return Err(refused(name, "an absolute name"));
        }
        if name.contains(&0) {
            return Err(refused(name, "a name with a NUL"));
        }
        let mut parts = parts(name);
        if parts.iter().any(|part| *part == b"..") {
            return Err(refused(name, "a name that leads out of the destination"));
        }
        if let OwnerMapping::Top(top) = &self.arrival.naming {
            match parts.first_mut() {
                Some(first) => *first = top,
                None => parts.push(top),
            }
        }
        Ok(parts.join(&b'/'))
    }

    fn attributes<R: Read>(&self, entry: &Entry<'_, R>, path: &[u8]) -> Result<Attributes> {
        let header = entry.header();
        let number = |of: io::Result<u64>| of.map_err(broken);
        let id = |of: u64| u32::try_from(of).map_err(|e| broken(io::Error::other(e)));
        let owner = if self.kept {
            Some(Ids {
                uid: id(number(header.uid())?)?,
                gid: id(number(header.gid())?)?,
            })
        } else {
            None
        };
        let bits = if self.kept { 0o7777 } else { 0o777 };
        let told = Mtime::seconds(i64::try_from(number(header.mtime())?).unwrap_or(0));
        let known = self.arrival.times.get(path).copied();
        Ok(Attributes {
            mode: header.mode().map_err(broken)? & bits,
            modified: known.filter(|known| known.agrees(told)).unwrap_or(told),
            owner,
        })
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parts: &[&[u8]],
        attributes: Attributes,
    ) -> Result<()> {
        let name = || String::from_utf8_lossy(&parts.join(&b'/')).into_owned();
        let failed = |e| Error::io(format!("writing {}", name()), e);
        let sparse = entry.header().entry_type() == EntryType::GNUSparse;
        let size = entry.size();
        let mut unfinished = self.tree.file(parts).map_err(failed)?;
        self.budget.set(u64::MAX);
        let mut length = 0u64;
        loop {
            self.meter.check_cancelled().map_err(|_| Error::Cancelled)?;
            let got = entry.read(&mut self.buffer).map_err(broken)?;
            if got == 0 {
                break;
            }
            length += got as u64;
            let data = &self.buffer[..got];
            if sparse {
                around_holes(&mut unfinished.file, data).map_err(failed)?;
            } else {
                unfinished.file.write_all(data).map_err(failed)?;
            }
            self.meter.add(got as u64);
        }
        if length != size {
            return Err(broken(io::Error::other(format!(
                "{} ends after {length} of {size} bytes",
                name()
            ))));
        }
        if sparse {
            unfinished.file.set_len(size).map_err(failed)?;
        }
        unfinished.finish(attributes).map_err(failed)?;
        self.report.bytes += length;
        Ok(())
    }

    /// From the innermost folder out: a folder that nobody may enter must not
    /// be in the way.
    fn finish(self) -> Result<Report> {
        for (path, attributes) in self.folders.into_iter().rev() {
            let done = self.tree.finish_folder(&parts(&path), attributes);
            done.map_err(|e| Error::io(format!("writing {}", String::from_utf8_lossy(&path)), e))?;
        }
        Ok(self.report)
    }
}

fn refused(name: &[u8], what: &str) -> Error {
    let name = String::from_utf8_lossy(name);
    Error::Protocol(format!("the archive from the pixel has {what}: {name:?}"))
}

pub fn parts(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect()
}

fn around_holes(file: &mut std::fs::File, data: &[u8]) -> io::Result<()> {
    for piece in data.chunks(HOLE) {
        if piece.len() == HOLE && piece.iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Current(HOLE as i64))?;
        } else {
            file.write_all(piece)?;
        }
    }
    Ok(())
}
