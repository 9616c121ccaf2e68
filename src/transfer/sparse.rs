//! Sparse files: finds data segments, and writes the sparse headers of GNU tar
//! archives.

use std::fs::File;
use std::io;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

/// Number of entries in an extended sparse header block.
const ENTRIES_PER_BLOCK: usize = 21;

/// Offset and length of a data segment, in bytes.
pub type Segment = (u64, u64);

/// Returns the data segments of a file with `size` bytes. The last segment is
/// empty and ends the list. Returns `None` if the file is not sparse, or if the
/// file system does not report holes.
#[cfg(target_os = "linux")]
pub fn segments(file: &File, size: u64) -> io::Result<Option<Vec<Segment>>> {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::MetadataExt;

    if file.metadata()?.blocks().saturating_mul(512) >= size {
        return Ok(None);
    }
    let mut segments = Vec::new();
    let mut offset = 0;
    while offset < size {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // The rest of the file is a hole.
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        segments.push((start, end - start));
        offset = end;
    }
    segments.push((size, 0));
    Ok(Some(segments))
}

#[cfg(not(target_os = "linux"))]
pub fn segments(_: &File, _: u64) -> io::Result<Option<Vec<Segment>>> {
    Ok(None)
}

/// Changes `header` to the header of a sparse file with `size` bytes. Returns
/// the extended header blocks that must follow the header.
pub fn set_sparse(header: &mut Header, size: u64, segments: &[Segment]) -> Vec<u8> {
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_size(segments.iter().map(|(_, length)| length).sum());
    let Some(gnu) = header.as_gnu_mut() else {
        return Vec::new();
    };
    gnu.set_real_size(size);
    let (first, rest) = segments.split_at(segments.len().min(gnu.sparse.len()));
    fill(&mut gnu.sparse, first);
    gnu.set_is_extended(!rest.is_empty());
    let mut blocks = Vec::new();
    let mut chunks = rest.chunks(ENTRIES_PER_BLOCK).peekable();
    while let Some(chunk) = chunks.next() {
        let mut extension = GnuExtSparseHeader::new();
        fill(&mut extension.sparse, chunk);
        extension.set_is_extended(chunks.peek().is_some());
        blocks.extend_from_slice(extension.as_bytes());
    }
    blocks
}

fn fill(slots: &mut [GnuSparseHeader], segments: &[Segment]) {
    for (slot, (offset, length)) in slots.iter_mut().zip(segments) {
        slot.set_offset(*offset);
        slot.set_length(*length);
    }
}
