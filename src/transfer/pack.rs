//! Local files as an archive: names and link targets byte by byte, holes kept,
//! several names of one file as links, and a mark at the end by which the
//! other side knows that it is whole.

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

/// The entry behind all others.
pub const END: &[u8] = b"done";
/// What fits into a header.
const SHORT: usize = 100;
const BLOCK: usize = 512;
const CHUNK: usize = 128 * 1024;

/// Writes the archive. The names of the items are taken as they are.
pub fn pack(
    items: &[Item],
    owner: Ownership,
    meter: &TransferProgress,
    out: impl Write,
) -> Result<Report> {
    let mut packer = Packer {
        archive: Builder::new(out),
        owner,
        meter,
        links: HashMap::new(),
        buffer: vec![0; CHUNK],
        report: Report::default(),
    };
    for item in items {
        let doing = || format!("sending {}", item.source.display());
        meter.check_cancelled().map_err(|_| Error::Cancelled)?;
        packer.add(item).map_err(|e| Error::io(doing(), e))?;
    }
    packer.finish().map_err(|e| Error::io("sending", e))
}

struct Packer<'a, W: Write> {
    archive: Builder<W>,
    owner: Ownership,
    meter: &'a TransferProgress,
    /// Files with several names, by device and number.
    links: HashMap<(u64, u64), Vec<u8>>,
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
            return self.put(&mut header, &item.name, &mut io::empty());
        }
        if meta.is_symlink() {
            let target = std::fs::read_link(&item.source)?;
            let mut header = self.header(meta, EntryType::Symlink);
            self.report.files += 1;
            return self.link(&mut header, &item.name, target.as_os_str().as_bytes());
        }
        self.report.files += 1;
        if meta.nlink() > 1 {
            let first = self.links.entry((meta.dev(), meta.ino()));
            let first = first.or_insert_with(|| item.name.clone()).clone();
            if first != item.name {
                self.meter.add(meta.len());
                let mut header = self.header(meta, EntryType::Link);
                return self.link(&mut header, &item.name, &first);
            }
        }
        self.file(item)
    }

    fn file(&mut self, item: &Item) -> io::Result<()> {
        let mut file = open(&item.source)?;
        let meta = file.metadata()?;
        let size = meta.len();
        let mut header = self.header(&meta, EntryType::Regular);
        let segments = sparse::segments(&file, size)?;
        let whole = [(0, size)];
        let (blocks, segments) = match &segments {
            Some(segments) => (sparse::describe(&mut header, size, segments), &segments[..]),
            None => {
                header.set_size(size);
                (Vec::new(), &whole[..])
            }
        };
        file.seek(SeekFrom::Start(0))?;
        let mut data = Data {
            file,
            segments,
            at: 0,
            left: segments.first().map_or(0, |(_, length)| *length),
            meter: self.meter,
        };
        data.go_to(0)?;
        self.fraction(Mtime::of(&meta))?;
        self.put(&mut header, &item.name, &mut blocks.chain(&mut data))?;
        self.report.bytes += size;
        // Holes were passed over.
        let sent: u64 = segments.iter().map(|(_, length)| length).sum();
        self.meter.add(size.saturating_sub(sent));
        Ok(())
    }

    fn header(&self, meta: &Metadata, kind: EntryType) -> Header {
        let owner = self.owner.of(meta);
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(owner.uid.into());
        header.set_gid(owner.gid.into());
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        header
    }

    fn link(&mut self, header: &mut Header, name: &[u8], target: &[u8]) -> io::Result<()> {
        if target.len() > SHORT {
            self.long(EntryType::GNULongLink, target)?;
        }
        let short = &target[..target.len().min(SHORT)];
        header.as_old_mut().linkname[..short.len()].copy_from_slice(short);
        self.put(header, name, &mut io::empty())
    }

    fn put(&mut self, header: &mut Header, name: &[u8], data: &mut dyn Read) -> io::Result<()> {
        if name.len() > SHORT {
            self.long(EntryType::GNULongName, name)?;
        }
        let short = &name[..name.len().min(SHORT)];
        header.as_old_mut().name[..short.len()].copy_from_slice(short);
        header.set_cksum();
        // Like `Builder::append`, with a buffer that large files deserve.
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

    /// An entry that tells the time of the next one to the nanosecond: its own
    /// header has room for seconds.
    fn fraction(&mut self, modified: Mtime) -> io::Result<()> {
        let Mtime { seconds, nanos } = modified;
        if nanos == 0 || seconds < 0 {
            return Ok(());
        }
        let time = format!("{seconds}.{nanos:09}");
        let extensions = [("mtime", time.as_bytes())];
        self.archive.append_pax_extensions(extensions)
    }

    /// An entry whose content is a name of the next one.
    fn long(&mut self, kind: EntryType, text: &[u8]) -> io::Result<()> {
        const NAME: &[u8] = b"././@LongLink";
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..NAME.len()].copy_from_slice(NAME);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(text.len() as u64 + 1);
        header.set_cksum();
        self.archive.append(&header, text.chain(&[0][..]))
    }

    fn finish(mut self) -> io::Result<Report> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.put(&mut header, END, &mut io::empty())?;
        self.archive.into_inner()?.flush()?;
        Ok(self.report)
    }
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true);
    // A top that is a link was resolved by whoever named it.
    if !path.is_symlink() {
        options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    }
    options.open(path)
}

/// The data of a file, stretch by stretch, and exactly as much as was promised.
struct Data<'a> {
    file: File,
    segments: &'a [sparse::Segment],
    at: usize,
    left: u64,
    meter: &'a TransferProgress,
}

impl Data<'_> {
    fn go_to(&mut self, segment: usize) -> io::Result<()> {
        self.at = segment;
        if let Some((offset, length)) = self.segments.get(segment) {
            self.left = *length;
            self.file.seek(SeekFrom::Start(*offset))?;
        }
        Ok(())
    }
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.check_cancelled()?;
        while self.left == 0 {
            if self.at + 1 >= self.segments.len() {
                return Ok(0);
            }
            self.go_to(self.at + 1)?;
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        let got = self.file.read(&mut buffer[..wanted])?;
        if got == 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= got as u64;
        self.meter.add(got as u64);
        Ok(got)
    }
}
