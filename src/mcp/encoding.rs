//! Content of files and folders, between bytes and what clients are told: pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::truncate::unfinished;

/// Of one listing.
pub const ENTRIES: usize = 5000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Content {
    pub content: String,
    /// base64 when the file is no UTF-8 text.
    pub encoding: Encoding,
    /// The file is longer than this.
    pub truncated: bool,
    /// Of the whole file, in bytes.
    pub size: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Listing {
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// There are more: list a folder further down.
    pub truncated: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub struct Entry {
    /// Absolute. Bytes that are no UTF-8 are shown as replacement characters.
    pub path: String,
    pub size: u64,
    /// Permission bits, as a number.
    pub mode: u32,
    pub is_dir: bool,
    /// file, directory, link or other.
    pub kind: String,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The exact bytes of the path in base64, when it is no UTF-8 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

/// The content a client sent, as bytes.
pub fn decoded(content: String, encoding: Option<Encoding>) -> Result<Vec<u8>> {
    match encoding {
        None | Some(Encoding::Utf8) => Ok(content.into_bytes()),
        Some(Encoding::Base64) => STANDARD
            .decode(content.trim())
            .map_err(|e| Error::invalid(format!("content is no base64: {e}"))),
    }
}

pub fn content(mut bytes: Vec<u8>, limit: u64, size: u64) -> Content {
    let truncated = bytes.len() as u64 > limit;
    bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let whole = bytes.len();
    if truncated {
        bytes.truncate(whole - unfinished(&bytes));
    }
    // What a file of the kernel's says of its size may be nothing.
    let size = size.max(whole as u64);
    match String::from_utf8(bytes) {
        Ok(content) => Content {
            content,
            encoding: Encoding::Utf8,
            truncated,
            size,
        },
        Err(error) => Content {
            content: STANDARD.encode(error.as_bytes()),
            encoding: Encoding::Base64,
            truncated,
            size,
        },
    }
}

/// The bytes with `old` replaced, and how often.
pub fn replaced(bytes: &[u8], old: &[u8], new: &[u8], all: bool) -> Result<(Vec<u8>, u64), String> {
    if old.is_empty() {
        return Err("old_string is empty".into());
    }
    if old == new {
        return Err("old_string and new_string are the same".into());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let (mut rest, mut count) = (bytes, 0);
    while let Some(at) = find(rest, old) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(new);
        rest = &rest[at + old.len()..];
        count += 1;
    }
    out.extend_from_slice(rest);
    match count {
        0 => Err("old_string is not in it; read_file shows what is".into()),
        1 => Ok((out, 1)),
        _ if all => Ok((out, count)),
        _ => Err(format!(
            "old_string is in it {count} times: give more of its surroundings, or set replace_all"
        )),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Reads what `list.sh` prints.
pub fn listing(folder: &str, answer: &[u8]) -> Listing {
    let mut fields = answer.split(|byte| *byte == 0);
    let mut entries = Vec::new();
    // Root in the sandbox may have made it up, of any length.
    while entries.len() <= ENTRIES {
        let mut next = || fields.next();
        let entry = (next(), next(), next(), next(), next());
        let (Some(kind), Some(size), Some(mode), Some(name), Some(target)) = entry else {
            break;
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut path = folder.trim_end_matches('/').as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(name);
        let kind = match kind {
            b"f" => "file",
            b"d" => "directory",
            b"l" => "link",
            _ => "other",
        };
        entries.push(Entry {
            size: text(size).parse().unwrap_or(0),
            mode: u32::from_str_radix(&text(mode), 8).unwrap_or(0),
            is_dir: kind == "directory",
            kind: kind.to_owned(),
            target: (kind == "link").then(|| text(target)),
            path_base64: std::str::from_utf8(&path)
                .is_err()
                .then(|| STANDARD.encode(&path)),
            path: text(&path),
        });
    }
    let truncated = entries.len() > ENTRIES;
    entries.truncate(ENTRIES);
    entries.sort();
    Listing { entries, truncated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_refuse_what_is_ambiguous() {
        let edit = |old: &str, new: &str, all| {
            let bytes = b"one two two \xff";
            replaced(bytes, old.as_bytes(), new.as_bytes(), all)
        };
        assert_eq!(
            edit("one", "1", false).unwrap(),
            (b"1 two two \xff".to_vec(), 1)
        );
        assert_eq!(
            edit("two", "2", true).unwrap(),
            (b"one 2 2 \xff".to_vec(), 2)
        );
        assert!(edit("two", "2", false).unwrap_err().contains("2 times"));
        assert!(edit("three", "3", true).unwrap_err().contains("not in it"));
        assert!(edit("", "x", true).is_err());
        assert!(edit("one", "one", false).is_err());
    }

    #[test]
    fn content_is_text_where_it_can_be_and_marked_where_it_is_cut() {
        let text = content("aé".into(), 10, 3);
        assert_eq!((text.content.as_str(), text.truncated), ("aé", false));
        let cut = content("aé".into(), 2, 3);
        assert_eq!(
            (cut.content.as_str(), cut.truncated, cut.size),
            ("a", true, 3)
        );
        let binary = content(vec![0xff, 0], 10, 2);
        assert_eq!(
            (binary.encoding, binary.content.as_str()),
            (Encoding::Base64, "/wA=")
        );
        assert_eq!(
            decoded("/wA=".into(), Some(Encoding::Base64)).unwrap(),
            [0xff, 0]
        );
        assert!(decoded("/wA".into(), Some(Encoding::Base64)).is_err());
    }

    #[test]
    fn listings_survive_every_name() {
        let answer =
            b"f\x0012\x00644\x00a\tb\nc\0\0d\x004096\x00755\x00\xff\0\0l\x003\x00777\x00l\0/etc\0";
        let listing = listing("/x/", answer);
        let paths: Vec<&str> = listing.entries.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["/x/a\tb\nc", "/x/l", "/x/\u{fffd}"]);
        let binary = &listing.entries[2];
        assert_eq!((binary.is_dir, binary.mode), (true, 0o755));
        assert_eq!(binary.path_base64.as_deref(), Some("L3gv/w=="));
        assert_eq!(listing.entries[1].target.as_deref(), Some("/etc"));
        assert!(!listing.truncated);
    }

    #[test]
    fn listings_end_where_enough_was_read() {
        let answer = b"f\x001\x00644\0a\0\0".repeat(ENTRIES);
        let whole = listing("/", &answer);
        assert_eq!((whole.entries.len(), whole.truncated), (ENTRIES, false));
        let long = listing("/", &b"f\x001\x00644\0a\0\0".repeat(ENTRIES + 1));
        assert_eq!((long.entries.len(), long.truncated), (ENTRIES, true));
    }
}
