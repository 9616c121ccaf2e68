//! Files with holes: where their data is, and how an archive says so.

use std::fs::File;
use std::io;

use tar::{GnuExtSparseHeader, Header};

/// A stretch of data.
pub type Segment = (u64, u64);

/// The stretches of data in a file of this size; `None` when it has no holes,
/// or the system cannot tell.
#[cfg(target_os = "linux")]
pub fn segments(file: &File, size: u64) -> io::Result<Option<Vec<Segment>>> {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::MetadataExt;

    if file.metadata()?.blocks().saturating_mul(512) >= size {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(begin))?.min(size);
        if begin >= end {
            break;
        }
        found.push((begin, end - begin));
        at = end;
    }
    // Closes the list; without data it is all there is.
    found.push((size, 0));
    Ok(Some(found))
}

#[cfg(not(target_os = "linux"))]
pub fn segments(_: &File, _: u64) -> io::Result<Option<Vec<Segment>>> {
    Ok(None)
}

/// Makes `header` one of a file with holes; returns the blocks that follow it.
pub fn describe(header: &mut Header, size: u64, segments: &[Segment]) -> Vec<u8> {
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(segments.iter().map(|(_, length)| length).sum());
    let mut more = Vec::new();
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.set_real_size(size);
        let (first, rest) = segments.split_at(segments.len().min(gnu.sparse.len()));
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(first) {
            slot.set_offset(*offset);
            slot.set_length(*length);
        }
        gnu.set_is_extended(!rest.is_empty());
        let mut blocks = rest.chunks(21).peekable();
        while let Some(block) = blocks.next() {
            let mut extension = GnuExtSparseHeader::new();
            for (slot, (offset, length)) in extension.sparse_mut().iter_mut().zip(block) {
                slot.set_offset(*offset);
                slot.set_length(*length);
            }
            extension.set_is_extended(blocks.peek().is_some());
            more.extend_from_slice(extension.as_bytes());
        }
    }
    more
}
