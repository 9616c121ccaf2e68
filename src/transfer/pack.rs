//! Packs local files into a GNU tar archive.
//!
//! Keeps names and link targets byte by byte, holes of sparse files, and hard
//! links. The last entry is an end mark: an archive without it was cut off.

use std::collections::HashMap;
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
use crate::model::{Error, Result};

/// Name of the end mark. `receive.sh` checks that it exists.
const END_MARK: &[u8] = b"done";
/// Size of the name and link target fields of a header.
const NAME_FIELD: usize = 100;
const BLOCK: usize = 512;
const BUFFER: usize = 128 * 1024;

/// Writes an archive of the items under their names. Skips devices, sockets and
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
        buffer: vec![0; BUFFER],
        report: Report::default(),
    };
    for item in items {
        progress.check_cancelled().map_err(|_| Error::Cancelled)?;
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
    /// The first name of each file with several links, by device and inode.
    hard_links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    report: Report,
}

impl<W: Write> Packer<'_, W> {
    fn add(&mut self, item: &Item) -> io::Result<()> {
        let meta = &item.meta;
        if item.is_special() {
            self.report.skipped += 1;
            return Ok(());
        }
        if meta.is_dir() {
            let mut header = self.header(meta, EntryType::Directory);
            return self.write_entry(&mut header, &item.name, &mut io::empty());
        }
        self.report.files += 1;
        if meta.is_symlink() {
            let target = std::fs::read_link(&item.source)?;
            let mut header = self.header(meta, EntryType::Symlink);
            return self.write_link(&mut header, &item.name, target.as_os_str().as_bytes());
        }
        if meta.nlink() > 1 {
            let first = self.hard_links.entry((meta.dev(), meta.ino()));
            let first = first.or_insert_with(|| item.name.clone()).clone();
            if first != item.name {
                self.progress.add_done(meta.len());
                let mut header = self.header(meta, EntryType::Link);
                return self.write_link(&mut header, &item.name, &first);
            }
        }
        self.write_file(item)
    }

    fn write_file(&mut self, item: &Item) -> io::Result<()> {
        let mut file = open(&item.source)?;
        let meta = file.metadata()?;
        let size = meta.len();
        let mut header = self.header(&meta, EntryType::Regular);
        let sparse_segments = sparse::segments(&file, size)?;
        let whole_file = [(0, size)];
        let (blocks, segments) = match &sparse_segments {
            Some(segments) => (
                sparse::set_sparse(&mut header, size, segments),
                &segments[..],
            ),
            None => {
                header.set_size(size);
                (Vec::new(), &whole_file[..])
            }
        };
        file.seek(SeekFrom::Start(0))?;
        let mut data = SegmentReader {
            file,
            segments,
            index: 0,
            remaining: 0,
            progress: self.progress,
        };
        data.seek_to(0)?;
        self.write_mtime_fraction(Mtime::from_metadata(&meta))?;
        self.write_entry(&mut header, &item.name, &mut blocks.chain(&mut data))?;
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

    fn write_link(&mut self, header: &mut Header, name: &[u8], target: &[u8]) -> io::Result<()> {
        if target.len() > NAME_FIELD {
            self.write_long_name(EntryType::GNULongLink, target)?;
        }
        let short = &target[..target.len().min(NAME_FIELD)];
        header.as_old_mut().linkname[..short.len()].copy_from_slice(short);
        self.write_entry(header, name, &mut io::empty())
    }

    /// Like `Builder::append`, with a larger buffer.
    fn write_entry(
        &mut self,
        header: &mut Header,
        name: &[u8],
        data: &mut dyn Read,
    ) -> io::Result<()> {
        if name.len() > NAME_FIELD {
            self.write_long_name(EntryType::GNULongName, name)?;
        }
        let short = &name[..name.len().min(NAME_FIELD)];
        header.as_old_mut().name[..short.len()].copy_from_slice(short);
        header.set_cksum();
        let out = self.archive.get_mut();
        out.write_all(header.as_bytes())?;
        let mut length = 0;
        loop {
            match data.read(&mut self.buffer)? {
                0 => break,
                got => {
                    out.write_all(&self.buffer[..got])?;
                    length += got;
                }
            }
        }
        let padding = length.next_multiple_of(BLOCK) - length;
        out.write_all(&[0; BLOCK][..padding])
    }

    /// Writes a pax extension with the nanoseconds of the next entry's mtime. A
    /// header holds only seconds.
    fn write_mtime_fraction(&mut self, mtime: Mtime) -> io::Result<()> {
        let Mtime { seconds, nanos } = mtime;
        if nanos == 0 || seconds < 0 {
            return Ok(());
        }
        let time = format!("{seconds}.{nanos:09}");
        let extensions = [("mtime", time.as_bytes())];
        self.archive.append_pax_extensions(extensions)
    }

    /// Writes a GNU entry with the long name or long link target of the next
    /// entry.
    fn write_long_name(&mut self, kind: EntryType, text: &[u8]) -> io::Result<()> {
        const NAME: &[u8] = b"././@LongLink";
        let mut header = new_header(kind, 0o644);
        header.as_old_mut().name[..NAME.len()].copy_from_slice(NAME);
        header.set_size(text.len() as u64 + 1);
        header.set_cksum();
        self.archive.append(&header, text.chain(&[0][..]))
    }

    fn finish(mut self) -> io::Result<Report> {
        let mut header = new_header(EntryType::Regular, 0o600);
        self.write_entry(&mut header, END_MARK, &mut io::empty())?;
        self.archive.into_inner()?.flush()?;
        Ok(self.report)
    }
}

/// A header of an empty entry of root from 1970.
fn new_header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Opens a file for reading. Does not wait for the writer of a pipe, and follows
/// a link only if `path` was one already when it was named by the user.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    if !path.is_symlink() {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    }
    options.open(path)
}

/// Reads the data segments of a file one after the other. Fails if the file
/// became shorter.
struct SegmentReader<'a> {
    file: File,
    segments: &'a [sparse::Segment],
    index: usize,
    /// Bytes left in the current segment.
    remaining: u64,
    progress: &'a TransferProgress,
}

impl SegmentReader<'_> {
    fn seek_to(&mut self, index: usize) -> io::Result<()> {
        self.index = index;
        if let Some((offset, length)) = self.segments.get(index) {
            self.remaining = *length;
            self.file.seek(SeekFrom::Start(*offset))?;
        }
        Ok(())
    }
}

impl Read for SegmentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.check_cancelled()?;
        while self.remaining == 0 {
            if self.index + 1 >= self.segments.len() {
                return Ok(0);
            }
            self.seek_to(self.index + 1)?;
        }
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        let got = self.file.read(&mut buffer[..wanted])?;
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
