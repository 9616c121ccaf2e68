//! Fuzz tests of listings, archives and ignore files from a pixel.

use super::unpack_test::Destination;
use super::{GuestPath, Rules, guest_listing};
use crate::fuzz::{fuzz, text};

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
        let listing = guest_listing::parse(bytes, usize::MAX).ok()?;
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

/// Unpacking changes only the destination and leaves no partial file.
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
    fuzz("archives", 60, &words, |bytes| {
        let destination = Destination::new();
        let mut sound = bytes.to_vec();
        checksums(&mut sound);
        let outcomes = [bytes, &sound].map(|archive| {
            let outcome = destination.unpack(archive);
            let kind = outcome.map(|report| (report.files.min(3), report.skipped.min(1)));
            // Returns the kind of error without the path.
            kind.map_err(|error| -> String {
                let text = error.to_string();
                text.chars()
                    .filter(|c| c.is_alphabetic())
                    .take(60)
                    .collect()
            })
        });
        destination.assert_no_leftovers();
        outcomes
    });
}

/// Corrects the checksums of headers, so that the fields are parsed.
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
