//! Conversions between bytes in a sandbox and JSON for clients.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::truncate::{FILES, PATHS};
use crate::model::incomplete_end;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct FileContent {
    pub content: String,
    /// base64 if the file is not UTF-8 text.
    pub encoding: Encoding,
    /// The file is longer than the returned content.
    pub truncated: bool,
    /// Size of the whole file in bytes.
    pub size: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Listing {
    /// Sorted by path.
    pub entries: Vec<FileEntry>,
    /// Entries are missing: list a subdirectory.
    pub truncated: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
pub struct FileEntry {
    /// Absolute path. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub path: String,
    pub size: u64,
    /// Permission bits as a number.
    pub mode: u32,
    pub is_dir: bool,
    /// "file", "directory", "link" or "other".
    pub kind: String,
    /// Target of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The exact bytes of the path in base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

/// Decodes content sent by a client. The default encoding is UTF-8.
pub fn decode_content(content: String, encoding: Option<Encoding>) -> Result<Vec<u8>> {
    match encoding {
        None | Some(Encoding::Utf8) => Ok(content.into_bytes()),
        Some(Encoding::Base64) => STANDARD
            .decode(content.trim())
            .map_err(|e| Error::invalid(format!("content is not valid base64: {e}"))),
    }
}

/// Encodes the first `limit` bytes, without an incomplete character at the end.
///
/// `size` is the size of the whole file.
pub fn encode_content(mut bytes: Vec<u8>, limit: u64, size: u64) -> FileContent {
    let truncated = bytes.len() as u64 > limit;
    bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let whole = bytes.len();
    if truncated {
        bytes.truncate(whole - incomplete_end(&bytes));
    }
    // The kernel reports size 0 for files in /proc.
    let size = size.max(whole as u64);
    let (content, encoding) = match String::from_utf8(bytes) {
        Ok(text) => (text, Encoding::Utf8),
        Err(error) => (STANDARD.encode(error.as_bytes()), Encoding::Base64),
    };
    FileContent {
        content,
        encoding,
        truncated,
        size,
    }
}

/// Replaces `old` with `new`, and returns the bytes and the number of
/// replacements. Fails unless `old` occurs exactly once, or at least once with
/// `all`.
pub fn replace_text(
    bytes: &[u8],
    old: &[u8],
    new: &[u8],
    all: bool,
) -> Result<(Vec<u8>, u64), String> {
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
        0 => Err("old_string not found: call read_file for the content".into()),
        1 => Ok((out, 1)),
        _ if all => Ok((out, count)),
        _ => Err(format!(
            "old_string occurs {count} times: include more surrounding text, or set replace_all"
        )),
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

/// Parses the output of `list.sh` for the directory `dir`.
pub fn parse_listing(dir: &str, output: &[u8]) -> Listing {
    let mut fields = output.split(|byte| *byte == 0);
    let mut entries = Vec::new();
    let mut room = PATHS;
    let mut truncated = false;
    // Limit the entries: root in the sandbox can forge the output.
    loop {
        let mut next = || fields.next();
        let entry = (next(), next(), next(), next(), next());
        let (Some(kind), Some(size), Some(mode), Some(name), Some(target)) = entry else {
            break;
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let length = dir.len() + name.len() + target.len();
        if entries.len() == FILES || length > room {
            truncated = true;
            break;
        }
        room -= length;
        let mut path = dir.trim_end_matches('/').as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(name);
        let kind = match kind {
            b"f" => "file",
            b"d" => "directory",
            b"l" => "link",
            _ => "other",
        };
        entries.push(FileEntry {
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
    entries.sort();
    Listing { entries, truncated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_replacement_fails() {
        let edit = |old: &str, new: &str, all| {
            let bytes = b"one two two \xff";
            replace_text(bytes, old.as_bytes(), new.as_bytes(), all)
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
        assert!(edit("three", "3", true).unwrap_err().contains("not found"));
        assert!(edit("", "x", true).is_err());
        assert!(edit("one", "one", false).is_err());
    }

    #[test]
    fn content_is_text_if_utf8_and_truncation_is_reported() {
        let text = encode_content("aé".into(), 10, 3);
        assert_eq!((text.content.as_str(), text.truncated), ("aé", false));
        let cut = encode_content("aé".into(), 2, 3);
        assert_eq!(
            (cut.content.as_str(), cut.truncated, cut.size),
            ("a", true, 3)
        );
        let binary = encode_content(vec![0xff, 0], 10, 2);
        assert_eq!(
            (binary.encoding, binary.content.as_str()),
            (Encoding::Base64, "/wA=")
        );
        assert_eq!(
            decode_content("/wA=".into(), Some(Encoding::Base64)).unwrap(),
            [0xff, 0]
        );
        assert!(decode_content("/wA".into(), Some(Encoding::Base64)).is_err());
    }

    #[test]
    fn listing_with_any_file_name_is_parsed() {
        let output =
            b"f\x0012\x00644\x00a\tb\nc\0\0d\x004096\x00755\x00\xff\0\0l\x003\x00777\x00l\0/etc\0";
        let listing = parse_listing("/x/", output);
        let paths: Vec<&str> = listing.entries.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["/x/a\tb\nc", "/x/l", "/x/\u{fffd}"]);
        let binary = &listing.entries[2];
        assert_eq!((binary.is_dir, binary.mode), (true, 0o755));
        assert_eq!(binary.path_base64.as_deref(), Some("L3gv/w=="));
        assert_eq!(listing.entries[1].target.as_deref(), Some("/etc"));
        assert!(!listing.truncated);
    }

    #[test]
    fn listing_is_truncated_at_the_limit() {
        let output = b"f\x001\x00644\0a\0\0".repeat(FILES);
        let whole = parse_listing("/", &output);
        assert_eq!((whole.entries.len(), whole.truncated), (FILES, false));
        let long = parse_listing("/", &b"f\x001\x00644\0a\0\0".repeat(FILES + 1));
        assert_eq!((long.entries.len(), long.truncated), (FILES, true));
        let name = "x".repeat(PATHS / 4);
        let output = format!("f\x001\x00644\0{name}\0\0").repeat(5);
        let wide = parse_listing("/", output.as_bytes());
        assert_eq!((wide.entries.len(), wide.truncated), (3, true));
    }
}
