//! Lists a directory in a pixel with the pixel's own `find`.
//!
//! The listing is not trusted, and only compared with the local directory.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use super::guest_script::{self, NO_SUCH_PATH, ScriptExit};
use super::ignore_rules::{IGNORE_FILE, Rules};
use super::mtime::Mtime;
use super::unpack::parts;
use super::{GuestPath, walk};
use crate::model::{Error, FileKind, Guest, Result, collect_up_to};

const SCRIPT: &str = include_str!("guest/list.sh");
/// Exit codes if `find` is missing or does not support `-printf`.
const NO_FIND: [i32; 2] = [1, 127];
/// Limits for the output of `find` and for the number of entries, which root in
/// the pixel controls. Each entry uses a few hundred bytes of memory.
const MAX_OUTPUT: usize = 256 * 1024 * 1024;
const MAX_ENTRIES: usize = 2_000_000;

/// The properties for comparing two entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFacts {
    pub kind: FileKind,
    pub mode: u32,
    pub size: u64,
    pub mtime: Mtime,
    /// The target of a symbolic link.
    pub target: Vec<u8>,
}

/// Maps paths relative to the directory to entries.
pub type Listing = BTreeMap<Vec<u8>, EntryFacts>;

/// Lists the entries of `dir` that the rules do not ignore. Adds the ignore
/// files in `dir` to the rules. Returns `None` if `dir` does not exist.
///
/// Fails with [`Error::Unsupported`] if the pixel's `find` is unsuitable, or if
/// there are more than 2,000,000 entries.
pub async fn list(
    guest: &dyn Guest,
    dir: &GuestPath,
    rules: &mut Rules,
) -> Result<Option<Listing>> {
    let path = dir.path.as_str();
    let request = guest_script::request(SCRIPT, &[path]);
    let output = collect_up_to(guest, &request, MAX_OUTPUT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.0 {
        0 => {}
        NO_SUCH_PATH => return Ok(None),
        status if NO_FIND.contains(&status) => {
            return Err(unsupported(format!(
                "the pixel's find cannot list {path}: {stderr}"
            )));
        }
        status => return Err(ScriptExit { status, stderr }.into_error(path, "sync")),
    }
    let mut listing = parse(&output.stdout, MAX_ENTRIES)?;
    if rules.reads_ignore_files() {
        let ignore_files = listing
            .iter()
            .filter(|(_, facts)| facts.kind == FileKind::File)
            .filter_map(|(file, _)| Some((file, ignore_file_dir(file)?)));
        for (file, file_dir) in ignore_files {
            let Ok(text) = std::str::from_utf8(file) else {
                continue;
            };
            let file = format!("{}/{text}", path.trim_end_matches('/'));
            let content = guest.read_file(&file, rules.read_limit()).await?;
            rules.add_file(file_dir, &content)?;
        }
    }
    listing.retain(|path, facts| !rules.ignores_path(path, facts.kind == FileKind::Directory));
    Ok(Some(listing))
}

/// Returns the directory of an ignore file, or `None` for any other file.
pub fn ignore_file_dir(path: &[u8]) -> Option<&[u8]> {
    match path.strip_suffix(IGNORE_FILE.as_bytes())? {
        b"" => Some(b""),
        dir => dir.strip_suffix(b"/"),
    }
}

fn unsupported(reason: String) -> Error {
    Error::Unsupported {
        operation: "sync".into(),
        reason: reason.into(),
    }
}

/// Parses pairs of NUL-terminated fields: properties and path. Fails with
/// [`Error::Unsupported`] above `max_entries`, else with [`Error::Protocol`].
pub(super) fn parse(text: &[u8], max_entries: usize) -> Result<Listing> {
    let malformed = |field: &[u8]| {
        Error::Protocol(format!(
            "malformed listing from the pixel: {:?}",
            String::from_utf8_lossy(field)
        ))
    };
    let mut listing = Listing::new();
    let mut fields = text.split(|&byte| byte == 0);
    loop {
        let facts = fields.next().unwrap_or_default();
        let Some(path) = fields.next() else {
            return if facts.is_empty() {
                Ok(listing)
            } else {
                Err(malformed(facts))
            };
        };
        let steps = parts(path);
        if steps.is_empty() || steps.contains(&&b".."[..]) || steps.join(&b'/') != path {
            return Err(malformed(path));
        }
        if listing.len() == max_entries {
            return Err(unsupported(format!(
                "the directory in the pixel has more than {max_entries} entries"
            )));
        }
        let facts = parse_facts(facts).ok_or_else(|| malformed(facts))?;
        listing.insert(path.to_owned(), facts);
    }
}

fn parse_facts(text: &[u8]) -> Option<EntryFacts> {
    let mut fields = text.splitn(5, |&byte| byte == b' ');
    let kind = match fields.next()? {
        b"f" => FileKind::File,
        b"d" => FileKind::Directory,
        b"l" => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let mut next_text = || std::str::from_utf8(fields.next()?).ok();
    Some(EntryFacts {
        kind,
        mode: u32::from_str_radix(next_text()?, 8).ok()?,
        size: next_text()?.parse().ok()?,
        mtime: Mtime::parse(next_text()?)?,
        target: fields.next()?.to_owned(),
    })
}

/// Returns the properties of a local entry.
pub fn local_facts(item: &walk::Item) -> EntryFacts {
    let meta = &item.meta;
    let target = match item.kind() {
        FileKind::Symlink => std::fs::read_link(&item.source).ok(),
        _ => None,
    };
    EntryFacts {
        kind: item.kind(),
        mode: meta.mode() & 0o7777,
        size: meta.len(),
        mtime: Mtime::from_metadata(meta),
        target: target.map_or_else(Vec::new, |target| target.into_os_string().into_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_rejects_malformed_fields_and_paths() {
        let text = b"f 644 12 1700000000.5 \0a/b c\0l 777 3 1.0 x y\0l\0d 755 0 1.0 \0a\0";
        let listing = parse(text, 3).unwrap();
        assert_eq!(listing[&b"a/b c"[..]].size, 12);
        let time = Mtime {
            seconds: 1_700_000_000,
            nanos: 500_000_000,
        };
        assert_eq!(listing[&b"a/b c"[..]].mtime, time);
        assert_eq!(listing[&b"l"[..]].target, b"x y");
        assert_eq!(listing[&b"a"[..]].kind, FileKind::Directory);
        assert!(parse(b"", 0).unwrap().is_empty());
        for bad in [
            &b"f 644 12 1.0 \0../a\0"[..],
            b"f 644 12 1.0 \0/a\0",
            b"f 644 12 1.0 \0a/./b\0",
            b"f 644 12 1.0 \0\0",
            b"f 999 12 1.0 \0a\0",
            b"f 644 x 1.0 \0a\0",
            b"f 644\0a\0",
            b"f 644 12 1.0 ",
        ] {
            assert!(parse(bad, 1).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn parse_stops_at_the_entry_limit() {
        let text = b"f 644 1 1.0 \0a\0f 644 1 1.0 \0b\0f 644 1 1.0 \0c\0";
        assert_eq!(parse(text, 3).unwrap().len(), 3);
        let rejected = parse(text, 2).unwrap_err();
        assert!(rejected.to_string().contains("more than 2 entries"));
    }

    #[test]
    fn ignore_file_dir_is_the_parent_of_ignore_files_only() {
        assert_eq!(ignore_file_dir(b".gitignore"), Some(&b""[..]));
        assert_eq!(ignore_file_dir(b"a/b/.gitignore"), Some(&b"a/b"[..]));
        assert_eq!(ignore_file_dir(b"a/x.gitignore"), None);
        assert_eq!(ignore_file_dir(b"a"), None);
    }
}
