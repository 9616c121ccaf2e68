//! What is in a folder of a pixel, as its own `find` tells it: for comparing,
//! never for deciding where something is written.

use std::collections::BTreeMap;

use super::ignore_rules::{IGNORE_FILE, Rules};
use super::mtime::Mtime;
use super::unpack::parts;
use super::{GuestPath, NO_DIRECTORY, NO_SUCH_PATH, explain, walk};
use crate::model::{Error, ExecRequest, Guest, Result, collect_up_to};

const SCRIPT: &str = include_str!("guest/list.sh");
/// `find` is not there, or not one that can print like this.
const NO_FIND: [i32; 2] = [1, 127];
/// What find may print, and of how many entries: each takes some hundred bytes
/// here, and root in the pixel says how many there are.
const PRINTED: usize = 256 * 1024 * 1024;
const ENTRIES: usize = 2_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
    Other,
}

/// What two entries are compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
    pub modified: Mtime,
    /// Of a link.
    pub target: Vec<u8>,
}

/// By path below the folder.
pub type Listing = BTreeMap<Vec<u8>, Facts>;

/// `None` when the folder does not exist. Entries that the rules leave out are
/// not in it; the rules learn the ignore files that are found.
pub async fn list(
    guest: &dyn Guest,
    folder: &GuestPath,
    rules: &mut Rules,
) -> Result<Option<Listing>> {
    let path = folder.path.as_str();
    let request = ExecRequest::root(["/bin/sh", "-c", SCRIPT, "list", path]);
    let output = collect_up_to(guest, &request, PRINTED).await?;
    match output.status.0 {
        0 => {}
        NO_SUCH_PATH => return Ok(None),
        NO_DIRECTORY => {
            return Err(Error::Invalid(
                format!("{path} is no folder in the pixel").into(),
            ));
        }
        status if NO_FIND.contains(&status) => {
            return Err(Error::Unsupported {
                operation: "sync".into(),
                reason: format!(
                    "the pixel's find cannot list {path}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                )
                .into(),
            });
        }
        status => return Err(explain(status, &output.stderr, path, "sync")),
    }
    let mut listing = parse(&output.stdout)?;
    if rules.reads_ignore_files() {
        let name = IGNORE_FILE.as_bytes();
        let files = listing
            .iter()
            .filter(|(path, facts)| facts.kind == Kind::File && parts(path).last() == Some(&name));
        for (file, _) in files {
            let Ok(text) = std::str::from_utf8(file) else {
                continue;
            };
            let content = guest
                .read_file(
                    &format!("{}/{text}", path.trim_end_matches('/')),
                    rules.room(),
                )
                .await?;
            let above = file.strip_suffix(name).unwrap_or(file);
            rules.add(above.strip_suffix(b"/").unwrap_or(above), &content)?;
        }
    }
    listing.retain(|path, facts| !rules.leaves_out_anywhere(path, facts.kind == Kind::Folder));
    Ok(Some(listing))
}

/// Pairs of NUL-ended fields: facts and name.
pub(super) fn parse(text: &[u8]) -> Result<Listing> {
    parse_up_to(text, ENTRIES)
}

fn parse_up_to(text: &[u8], most: usize) -> Result<Listing> {
    let broken = |field: &[u8]| {
        Error::Protocol(format!(
            "the listing from the pixel: {:?}",
            String::from_utf8_lossy(field)
        ))
    };
    let mut listing = Listing::new();
    let mut fields = text.split(|&byte| byte == 0);
    loop {
        let facts = fields.next().unwrap_or_default();
        let Some(name) = fields.next() else {
            return if facts.is_empty() {
                Ok(listing)
            } else {
                Err(broken(facts))
            };
        };
        let steps = parts(name);
        if steps.is_empty() || steps.contains(&&b".."[..]) || steps.join(&b'/') != name {
            return Err(broken(name));
        }
        if listing.len() == most {
            return Err(Error::Unsupported {
                operation: "sync".into(),
                reason: format!("the folder in the pixel has more than {most} entries").into(),
            });
        }
        listing.insert(name.to_owned(), read(facts).ok_or_else(|| broken(facts))?);
    }
}

fn read(facts: &[u8]) -> Option<Facts> {
    let mut fields = facts.splitn(5, |&byte| byte == b' ');
    let mut next = || fields.next();
    let kind = match next()? {
        b"f" => Kind::File,
        b"d" => Kind::Folder,
        b"l" => Kind::Link,
        _ => Kind::Other,
    };
    let mode = u32::from_str_radix(std::str::from_utf8(next()?).ok()?, 8).ok()?;
    let size = std::str::from_utf8(next()?).ok()?.parse().ok()?;
    let modified = Mtime::parse(std::str::from_utf8(next()?).ok()?)?;
    Some(Facts {
        kind,
        mode,
        size,
        modified,
        target: next()?.to_owned(),
    })
}

/// The same of what was found on this machine.
pub fn facts(item: &walk::Item) -> Facts {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let meta = &item.meta;
    let kind = if meta.is_file() {
        Kind::File
    } else if meta.is_dir() {
        Kind::Folder
    } else if meta.is_symlink() {
        Kind::Link
    } else {
        Kind::Other
    };
    let target = match kind {
        Kind::Link => std::fs::read_link(&item.source).ok(),
        _ => None,
    };
    Facts {
        kind,
        mode: meta.mode() & 0o7777,
        size: meta.len(),
        modified: Mtime::of(meta),
        target: target.map_or_else(Vec::new, |target| target.as_os_str().as_bytes().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read_and_made_up_ones_refused() {
        let text = b"f 644 12 1700000000.5 \0a/b c\0l 777 3 1.0 x y\0l\0d 755 0 1.0 \0a\0";
        let listing = parse(text).unwrap();
        assert_eq!(listing[&b"a/b c"[..]].size, 12);
        let time = Mtime {
            seconds: 1_700_000_000,
            nanos: 500_000_000,
        };
        assert_eq!(listing[&b"a/b c"[..]].modified, time);
        assert_eq!(listing[&b"l"[..]].target, b"x y");
        assert_eq!(listing[&b"a"[..]].kind, Kind::Folder);
        assert!(parse(b"").unwrap().is_empty());
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
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_listing_has_an_end() {
        let text = b"f 644 1 1.0 \0a\0f 644 1 1.0 \0b\0f 644 1 1.0 \0c\0";
        assert_eq!(parse_up_to(text, 3).unwrap().len(), 3);
        let refused = parse_up_to(text, 2).unwrap_err();
        assert!(refused.to_string().contains("more than 2 entries"));
    }
}
