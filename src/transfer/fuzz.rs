//! Listings, archives and ignore files from a pixel.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::confined_write::ConfinedDir;
use super::unpack::{NameMapping, UnpackOptions, unpack};
use super::{GuestPath, Ownership, Rules, TransferProgress, guest_listing};
use crate::fuzz::{fuzz, text};
use crate::model::Ids;

#[test]
fn listings() {
    let words = [
        "f 644 1 1700000000.5 \0",
        "d 755 0 1 \0",
        "l 777 1 1 x\0",
        "../\0",
        "a/b\0",
    ];
    fuzz("listings", 20_000, &words, |bytes| {
        let listing = guest_listing::parse(bytes).ok()?;
        for name in listing.keys() {
            assert!(!name.starts_with(b"/") && !name.contains(&0));
            assert!(
                name.split(|b| *b == b'/')
                    .all(|part| part != b".." && !part.is_empty())
            );
        }
        Some(listing.len().min(4))
    });
}

/// Nothing outside the destination is touched, and no half file stays.
#[test]
fn archives() {
    let words = [
        "../outside/precious",
        "ustar  \0",
        "ustar\x0000",
        "0000644\0",
        "\0\0\0\0",
        "path=../x\n",
        "11 path=ab\n",
        "GNU.sparse.map",
        "././@LongLink",
        "/",
    ];
    let dir = tempfile::tempdir().unwrap();
    let (to, outside) = (dir.path().join("to"), dir.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "mine").unwrap();
    fuzz("archives", 60, &words, |bytes| {
        fs::create_dir(&to).unwrap();
        let owner = Ownership::One(Ids::ROOT);
        let mut confined = ConfinedDir::open(&to).unwrap();
        let mut sound = bytes.to_vec();
        checksums(&mut sound);
        let mut outcomes = Vec::new();
        for archive in [bytes, &sound] {
            let options = UnpackOptions {
                names: NameMapping::Unchanged,
                ownership: owner,
                mtimes: HashMap::new(),
            };
            let progress = TransferProgress::default();
            let outcome = unpack(archive, &mut confined, &options, &progress);
            let kind = outcome.map(|report| (report.files.min(3), report.skipped.min(1)));
            outcomes.push(kind.map_err(|error| text_of(&error)));
        }
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        nothing_half(&to);
        fs::remove_dir_all(&to).unwrap();
        outcomes
    });
}

/// Sorts of errors, without what is in them.
fn text_of(error: &crate::model::Error) -> String {
    error
        .to_string()
        .chars()
        .filter(|c| c.is_alphabetic())
        .take(60)
        .collect()
}

/// Makes the headers count, so that what is in them is looked at.
fn checksums(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let digits = format!("{sum:06o}\0 ");
        block[148..156].copy_from_slice(digits.as_bytes());
    }
}

fn nothing_half(below: &Path) {
    for entry in fs::read_dir(below).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        assert!(!name.to_string_lossy().starts_with(".pixels-"), "{name:?}");
        if entry.file_type().unwrap().is_dir() {
            nothing_half(&entry.path());
        }
    }
}

#[test]
fn ignore_files() {
    let words = [
        "*",
        "**/",
        "!",
        "[a-",
        "]",
        "{a,",
        "}",
        "\\",
        "/",
        "node_modules\n",
        "#",
    ];
    fuzz("ignore-files", 300, &words, |bytes| {
        let mut rules = Rules::new(&[], true).unwrap();
        rules.add_file(b"sub", bytes).unwrap();
        let paths: [&[u8]; 3] = [b"sub/a", b"sub/x/node_modules", b"sub/\xff"];
        paths.map(|path| rules.ignores_path(path, false))
    });
}

#[test]
fn paths() {
    let words = ["/", "..", ".", "~", "~/", "//", "/."];
    fuzz("guest-paths", 20_000, &words, |bytes| {
        let path = GuestPath::parse(&text(bytes), "/home/pixel").ok()?;
        assert!(path.path.starts_with('/') && !path.path.contains('\0'));
        assert!(path.path.split('/').all(|part| part != ".." && part != "."));
        assert!(path.path == "/" || !path.path.ends_with('/'));
        let again = GuestPath::parse(&path.path, "/home/pixel").unwrap();
        assert_eq!(again.path, path.path);
        Some((path.directory, path.contents))
    });
}
