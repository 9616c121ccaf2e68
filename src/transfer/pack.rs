//! Packs local files into a GNU tar archive.
//!
//! Preserves exact names and link targets, holes of sparse files, and hard links. The
//! last entry is an end mark, which is missing if the archive was cut off.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use tar::{Builder, EntryType, Header};

use super::mtime::Mtime;
use super::walk::Item;
use super::{Ownership, Report, TransferProgress, sparse};
use crate::model::{Error, FileKind, Result};

/// Name of the end mark. `receive.sh` checks that this entry exists.
const END_MARK: &[u8] = b"done";
/// Size of the link target field in a tar header, in bytes.
const LINK_FIELD: usize = 100;

/// Writes an archive of the items with their names. Skips devices, sockets and
/// pipes.
pub fn pack(
    items: &[Item],
    ownership: Ownership,
    progress: &TransferProgress,
    out: impl Write,
) -> Result<Report> {
    let mut packer = Packer {
        archive: Builder::new(out),
        ownership,
        progress,
        hard_links: HashMap::new(),
        report: Report::default(),
    };
    for item in items {
        progress.check_cancelled()?;
        packer
            .add(item)
            .map_err(|e| Error::io(format!("cannot send {}", item.source.display()), e))?;
    }
    packer
        .finish()
        .map_err(|e| Error::io("cannot send the archive", e))
}

struct Packer<'a, W: Write> {
    archive: Builder<W>,
    ownership: Ownership,
    progress: &'a TransferProgress,
    /// The first name of each file with several hard links, by device and inode.
    hard_links: HashMap<(u64, u64), Vec<u8>>,
    report: Report,
}

impl<W: Write> Packer<'_, W> {
    fn add(&mut self, item: &Item) -> io::Result<()> {
        let meta = &item.meta;
        match item.kind() {
            FileKind::Other => {
                self.report.skipped += 1;
                return Ok(());
            }
            FileKind::Directory => {
                let header = self.header(meta, EntryType::Directory);
                return self.append(header, &item.name, io::empty());
            }
            FileKind::Symlink | FileKind::File => self.report.files += 1,
        }
        if meta.is_symlink() {
            let target = std::fs::read_link(&item.source)?;
            let header = self.header(meta, EntryType::Symlink);
            return self.append_link(header, &item.name, target.as_os_str().as_bytes());
        }
        if meta.nlink() > 1 {
            let first = self.hard_links.entry((meta.dev(), meta.ino()));
            let first = first.or_insert_with(|| item.name.clone()).clone();
            if first != item.name {
                self.progress.add_done(meta.len());
                let header = self.header(meta, EntryType::Link);
                return self.append_link(header, &item.name, &first);
            }
        }
        self.append_file(item)
    }

    fn append_file(&mut self, item: &Item) -> io::Result<()> {
        let file = open(&item.source)?;
        let meta = file.metadata()?;
        let size = meta.len();
        let mut header = self.header(&meta, EntryType::Regular);
        header.set_size(size);
        let (blocks, segments) = match sparse::segments(&file, size)? {
            Some(segments) => (sparse::set_sparse(&mut header, size, &segments), segments),
            None => (Vec::new(), vec![(0, size)]),
        };
        let data = SegmentReader {
            file,
            segments: segments.iter(),
            remaining: 0,
            progress: self.progress,
        };
        self.append_mtime_fraction(Mtime::from_metadata(&meta))?;
        self.append(header, &item.name, blocks.chain(data))?;
        self.report.bytes += size;
        let sent: u64 = segments.iter().map(|(_, length)| length).sum();
        self.progress.add_done(size.saturating_sub(sent));
        Ok(())
    }

    fn header(&self, meta: &Metadata, kind: EntryType) -> Header {
        let owner = self.ownership.owner_in_guest(meta);
        let mut header = new_header(kind, meta.mode() & 0o7777);
        header.set_uid(owner.uid.into());
        header.set_gid(owner.gid.into());
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        header
    }

    fn append(&mut self, mut header: Header, name: &[u8], mut data: impl Read) -> io::Result<()> {
        // Only the header: tar would copy the data in pieces of 8 KiB, this copy
        // has the size of the buffer of `out`.
        self.archive
            .append_data(&mut header, OsStr::from_bytes(name), io::empty())?;
        let out = self.archive.get_mut();
        let length = io::copy(&mut data, out)?;
        let padding = length.next_multiple_of(512) - length;
        io::copy(&mut io::repeat(0).take(padding), out).map(drop)
    }

    /// Appends a link. `Builder::append_link` would change the target `a//b/` to `a/b`.
    fn append_link(&mut self, mut header: Header, name: &[u8], target: &[u8]) -> io::Result<()> {
        if target.len() > LINK_FIELD {
            const NAME: &[u8] = b"././@LongLink";
            let mut long = new_header(EntryType::GNULongLink, 0o644);
            long.as_old_mut().name[..NAME.len()].copy_from_slice(NAME);
            long.set_size(target.len() as u64 + 1);
            long.set_cksum();
            self.archive.append(&long, target.chain(&[0][..]))?;
        }
        header.set_link_name_literal(&target[..target.len().min(LINK_FIELD)])?;
        self.append(header, name, io::empty())
    }

    /// Appends a pax extension with the nanoseconds of the next entry's mtime,
    /// because a header contains only whole seconds.
    fn append_mtime_fraction(&mut self, mtime: Mtime) -> io::Result<()> {
        let Mtime { seconds, nanos } = mtime;
        if nanos == 0 || seconds < 0 {
            return Ok(());
        }
        let time = format!("{seconds}.{nanos:09}");
        let extensions = [("mtime", time.as_bytes())];
        self.archive.append_pax_extensions(extensions)
    }

    fn finish(mut self) -> io::Result<Report> {
        let header = new_header(EntryType::Regular, 0o600);
        self.append(header, END_MARK, io::empty())?;
        self.archive.into_inner()?.flush()?;
        Ok(self.report)
    }
}

/// Returns the header of an empty entry owned by root, with a time of 0.
pub(super) fn new_header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Opens a file for reading. Does not wait for the writer of a pipe. Follows a
/// link only if the user's argument was already a link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    if !path.is_symlink() {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    }
    options.open(path)
}

/// Reads the data segments of a file in order. Fails if the file became
/// shorter.
struct SegmentReader<'a> {
    file: File,
    segments: std::slice::Iter<'a, sparse::Segment>,
    /// Number of unread bytes in the current segment.
    remaining: u64,
    progress: &'a TransferProgress,
}

impl Read for SegmentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress
            .check_cancelled()
            .map_err(|_| io::Error::other("the transfer was canceled"))?;
        while self.remaining == 0 {
            let Some((offset, length)) = self.segments.next() else {
                return Ok(0);
            };
            self.file.seek(SeekFrom::Start(*offset))?;
            self.remaining = *length;
        }
        let got = (&mut self.file).take(self.remaining).read(buffer)?;
        if got == 0 {
            return Err(became_shorter());
        }
        self.remaining -= got as u64;
        self.progress.add_done(got as u64);
        Ok(got)
    }
}

pub(super) fn became_shorter() -> io::Error {
    io::Error::other("the file became shorter while it was read")
}
