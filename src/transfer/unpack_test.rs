//! Unpacks archives from a hostile pixel.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::unpack::{UnpackOptions, unpack};
use super::{Ownership, Report, Rules, TransferProgress, pack, walk};
use crate::model::Result;

/// A destination directory next to a file that must not change.
pub struct Destination {
    dir: TempDir,
}

impl Destination {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("to")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/precious"), "mine").unwrap();
        Self { dir }
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("to").join(name)
    }

    pub fn unpack(&self, archive: &[u8]) -> Result<Report> {
        let options = UnpackOptions {
            root: self.at(""),
            top: None,
            ownership: Ownership::One(crate::model::Ids::ROOT),
            mtimes: HashMap::new(),
        };
        unpack(archive, &options, &TransferProgress::default())
    }

    /// Checks that the archive is rejected, changes no other file and leaves no
    /// temporary file.
    fn rejects(&self, entries: &[TestEntry<'_>]) {
        let outcome = self.unpack(&archive(entries));
        assert!(outcome.is_err(), "{entries:?}: {outcome:?}");
        self.assert_no_leftovers();
    }

    /// Checks that only the destination has changed, without temporary files.
    pub fn assert_no_leftovers(&self) {
        let outside = self.dir.path().join("outside");
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"mine");
        let count = |dir: &Path| fs::read_dir(dir).unwrap().count();
        assert_eq!((count(&outside), count(self.dir.path())), (1, 2));
        let (mut rules, progress) = (Rules::default(), TransferProgress::default());
        for item in walk::walk(&self.at(""), b"", &mut rules, &progress).unwrap() {
            let name = String::from_utf8_lossy(&item.name);
            assert!(!name.contains(".pixels-"), "{name}");
        }
    }
}

/// Entry type, name, and link target or content.
type TestEntry<'a> = (EntryType, &'a str, &'a str);

/// Builds an archive with the given names. The builder of the tar crate would
/// reject some of them.
fn archive(entries: &[TestEntry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, more) in entries {
        let mut header = pack::new_header(*kind, 0o6777);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let content = match kind {
            EntryType::Regular => more.as_bytes(),
            _ => {
                header.as_old_mut().linkname[..more.len()].copy_from_slice(more.as_bytes());
                b""
            }
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;
const DIR: EntryType = EntryType::Directory;

#[test]
fn archives_that_lead_outside_are_rejected() {
    let destination = Destination::new();
    let outside = destination.dir.path().join("outside");
    let absolute = outside.join("precious").display().to_string();
    symlink(outside, destination.at("mine")).unwrap();
    fs::write(destination.at("present"), "mine").unwrap();
    let up = "../outside";
    let entries: &[&[TestEntry<'_>]] = &[
        // The paths lead outside the destination.
        &[(FILE, &absolute, "theirs")],
        &[(FILE, "../outside/precious", "theirs")],
        &[(LINK, "../outside/precious", "x")],
        &[(FILE, "a/../../outside/precious", "theirs")],
        &[(LINK, "a/../../outside/precious", "x")],
        &[(FILE, "./../outside/x", "theirs")],
        &[(LINK, "./../outside/x", "x")],
        &[(FILE, "..", "theirs")],
        &[(LINK, "..", "x")],
        &[(DIR, "../outside/new", "")],
        // The paths use a symbolic link in the archive.
        &[(LINK, "a", up), (FILE, "a/precious", "theirs")],
        &[(LINK, "b", up), (FILE, "b/new", "theirs")],
        &[(LINK, "c", "/"), (FILE, "c/tmp/x/y", "theirs")],
        &[(LINK, "d", up), (LINK, "d/new", "x")],
        &[
            (DIR, "e", ""),
            (LINK, "e/f", "../../outside"),
            (FILE, "e/f/x", ""),
        ],
        // The path uses a symbolic link that existed before.
        &[(FILE, "mine/precious", "theirs")],
        // The hard links lead to files that are not in the archive.
        &[(HARD, "a", &absolute)],
        &[(HARD, "a", "../outside/precious")],
        &[(LINK, "l", "../outside/precious"), (HARD, "a", "l")],
        &[(LINK, "d", up), (HARD, "a", "d/precious")],
        &[(HARD, "a", "present")],
    ];
    for entries in entries {
        destination.rejects(entries);
    }
    assert!(destination.at("mine").is_symlink());
}

#[test]
fn hard_links_refer_to_files_of_the_archive() {
    let destination = Destination::new();
    let entries = [
        (FILE, "one", "x"),
        (HARD, "two", "one"),
        (HARD, "two", "one"),
    ];
    destination.unpack(&archive(&entries)).unwrap();
    let inode = |name| fs::metadata(destination.at(name)).unwrap().ino();
    assert_eq!(inode("one"), inode("two"));
    destination.assert_no_leftovers();
}

#[test]
fn existing_links_are_replaced_not_followed() {
    let destination = Destination::new();
    symlink("../outside/precious", destination.at("before")).unwrap();
    let entries = [
        (LINK, "now", "../outside/precious"),
        (FILE, "now", "theirs"),
        (FILE, "before", "theirs"),
        (LINK, "folder", "../outside"),
        (DIR, "folder", ""),
        (FILE, "folder/precious", "theirs"),
    ];
    destination.unpack(&archive(&entries)).unwrap();
    destination.assert_no_leftovers();
    for name in ["now", "before", "folder/precious"] {
        let path = destination.at(name);
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(path).unwrap(), b"theirs");
    }
}

#[test]
fn devices_and_setuid_bits_are_dropped() {
    let destination = Destination::new();
    let entries = [
        (EntryType::Char, "null", ""),
        (EntryType::Block, "disk", ""),
        (EntryType::Fifo, "pipe", ""),
        (FILE, "program", "x"),
    ];
    let report = destination.unpack(&archive(&entries)).unwrap();
    assert_eq!((report.files, report.skipped), (1, 3));
    let program = fs::metadata(destination.at("program")).unwrap();
    assert_eq!(program.mode() & 0o7777, 0o777);
    assert_eq!(fs::read_dir(destination.at("")).unwrap().count(), 1);
}

#[test]
fn cut_off_archive_leaves_no_partial_file() {
    let content = "x".repeat(5000);
    let whole = archive(&[(FILE, "first", "x"), (FILE, "second", &content)]);
    for end in [512, 700, 1024, 1300, 1600, 2048, 4000, 6000] {
        let destination = Destination::new();
        let outcome = destination.unpack(&whole[..end]);
        assert!(!destination.at("second").exists(), "{end}");
        // An archive that ends between two files looks complete. Only the exit
        // code of the command shows the error.
        assert_eq!(outcome.is_ok(), end == 1024, "{end}: {outcome:?}");
        destination.assert_no_leftovers();
    }
}

#[test]
fn oversized_headers_are_rejected() {
    let destination = Destination::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut oversized = header.as_bytes().to_vec();
    oversized.resize(20 * 1024 * 1024, b'a');
    assert!(destination.unpack(&oversized).is_err());
    destination.assert_no_leftovers();
    for noise in [&b"x"[..], &[0xff; 512], &[7; 4096]] {
        assert!(destination.unpack(noise).is_err());
    }
    assert!(destination.unpack(&[0; 1024]).is_ok());
}

#[test]
fn repeated_directory_gets_the_last_mode() {
    let destination = Destination::new();
    let mut builder = Builder::new(Vec::new());
    for mode in [0o700, 0o711, 0o750] {
        for name in ["a", "a/b", "a-b"] {
            let mut header = pack::new_header(EntryType::Directory, mode);
            builder.append_data(&mut header, name, &[][..]).unwrap();
        }
    }
    destination.unpack(&builder.into_inner().unwrap()).unwrap();
    for name in ["a", "a/b", "a-b"] {
        let mode = fs::metadata(destination.at(name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o750, "{name}");
    }
}

#[test]
fn pack_then_unpack_preserves_everything() {
    use std::io::{Seek, SeekFrom, Write};

    let from = tempfile::tempdir().unwrap();
    let top = from.path();
    let not_utf8 = OsStr::from_bytes(b"\xff\n \\ *");
    fs::write(top.join("empty"), "").unwrap();
    fs::write(top.join(not_utf8), "raw").unwrap();
    let long = "n".repeat(200);
    fs::create_dir(top.join(&long)).unwrap();
    fs::write(top.join(&long).join(&long), "long").unwrap();
    symlink(format!("/{}", "t".repeat(300)), top.join("link")).unwrap();
    symlink("a//b/", top.join("slashes")).unwrap();
    fs::hard_link(top.join("empty"), top.join("empty2")).unwrap();
    fs::set_permissions(top.join("empty"), fs::Permissions::from_mode(0o640)).unwrap();
    let mut holes = fs::File::create(top.join("holes")).unwrap();
    for at in (0..60u64).map(|n| n * 1024 * 1024 + 5) {
        holes.seek(SeekFrom::Start(at)).unwrap();
        holes.write_all(b"data").unwrap();
    }
    holes.set_len(100 * 1024 * 1024).unwrap();
    drop(holes);

    let progress = TransferProgress::default();
    let items = walk::walk(top, b"", &mut Rules::default(), &progress).unwrap();
    let mut packed = Vec::new();
    let owner = Ownership::Kept;
    let sent = pack::pack(&items[1..], owner, &progress, &mut packed).unwrap();
    assert!(
        packed.len() < 2 * 1024 * 1024,
        "holes were sent: {}",
        packed.len()
    );
    assert_eq!(progress.done(), progress.total());
    let destination = Destination::new();
    let got = destination.unpack(&packed).unwrap();
    // The archive's end mark is counted as a file.
    assert_eq!(got.files, sent.files + 1);
    for item in &items[1..] {
        let unpacked = destination.at(OsStr::from_bytes(&item.name));
        let (a, b) = (&item.meta, unpacked.symlink_metadata().unwrap());
        assert_eq!((a.mtime(), a.mode()), (b.mtime(), b.mode()), "{unpacked:?}");
        if a.is_symlink() {
            let target = fs::read_link(&item.source).unwrap();
            assert_eq!(fs::read_link(unpacked).unwrap(), target);
        } else if a.is_file() {
            let content = fs::read(&item.source).unwrap();
            assert!(fs::read(&unpacked).unwrap() == content, "{unpacked:?}");
        }
    }
    let blocks = destination.at("holes").metadata().unwrap().blocks();
    assert!(blocks * 512 < 50 * 1024 * 1024, "{blocks}");
    let ino = |name| destination.at(name).metadata().unwrap().ino();
    assert_eq!(ino("empty"), ino("empty2"));
}
