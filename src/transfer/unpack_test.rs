//! Archives from a hostile pixel.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::confined_write::ConfinedDir;
use super::unpack::{NameMapping, UnpackOptions, unpack};
use super::{Ownership, Report, TransferProgress, pack, walk};
use crate::model::Result;

/// A destination directory beside a file that must not change.
struct Destination {
    dir: TempDir,
    progress: TransferProgress,
}

impl Destination {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("to")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/precious"), "mine").unwrap();
        let progress = TransferProgress::default();
        Self { dir, progress }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("to")
    }

    fn unpack(&self, archive: &[u8]) -> Result<Report> {
        let mut dir = ConfinedDir::open(&self.path()).unwrap();
        let options = UnpackOptions {
            names: NameMapping::Unchanged,
            ownership: Ownership::One(crate::model::Ids::ROOT),
            mtimes: HashMap::new(),
        };
        unpack(archive, &mut dir, &options, &self.progress)
    }

    /// The archive is rejected, changes no other file, and leaves no temporary
    /// file.
    #[track_caller]
    fn rejects(&self, entries: &[TestEntry<'_>]) {
        let outcome = self.unpack(&archive(entries));
        assert!(outcome.is_err(), "{outcome:?}");
        self.assert_outside_unchanged();
    }

    #[track_caller]
    fn assert_outside_unchanged(&self) {
        let outside = self.dir.path().join("outside");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"mine");
        let siblings: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(siblings.len(), 2);
        assert!(temporary_files(&self.path()).is_empty());
    }
}

fn temporary_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let is_temporary = |path: &PathBuf| path.to_string_lossy().contains(".pixels-");
    entries.filter(is_temporary).collect()
}

/// Kind, name, and link target or content.
type TestEntry<'a> = (EntryType, &'a str, &'a str);

/// An archive with unchanged names, which the builder of the tar crate would
/// reject.
fn archive(entries: &[TestEntry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, more) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o6777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
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
fn paths_outside_the_destination_are_rejected() {
    let destination = Destination::new();
    let absolute = destination.dir.path().join("outside/precious");
    destination.rejects(&[(FILE, absolute.to_str().unwrap(), "theirs")]);
    for name in [
        "../outside/precious",
        "a/../../outside/precious",
        "./../outside/x",
        "..",
    ] {
        destination.rejects(&[(FILE, name, "theirs")]);
        destination.rejects(&[(LINK, name, "x")]);
    }
    destination.rejects(&[(DIR, "../outside/new", "")]);
}

#[test]
fn paths_through_links_are_rejected() {
    let outside = "../outside";
    let destination = Destination::new();
    destination.rejects(&[(LINK, "a", outside), (FILE, "a/precious", "theirs")]);
    destination.rejects(&[(LINK, "b", outside), (FILE, "b/new", "theirs")]);
    destination.rejects(&[(LINK, "c", "/"), (FILE, "c/tmp/x/y", "theirs")]);
    destination.rejects(&[(LINK, "d", outside), (LINK, "d/new", "x")]);
    destination.rejects(&[
        (DIR, "e", ""),
        (LINK, "e/f", "../../outside"),
        (FILE, "e/f/x", ""),
    ]);
    // Neither through a link that existed before.
    symlink(
        destination.dir.path().join("outside"),
        destination.path().join("mine"),
    )
    .unwrap();
    destination.rejects(&[(FILE, "mine/precious", "theirs")]);
    assert!(destination.path().join("mine").is_symlink());
}

#[test]
fn existing_links_are_replaced_not_followed() {
    let destination = Destination::new();
    symlink("../outside/precious", destination.path().join("before")).unwrap();
    let entries = [
        (LINK, "now", "../outside/precious"),
        (FILE, "now", "theirs"),
        (FILE, "before", "theirs"),
        (LINK, "folder", "../outside"),
        (DIR, "folder", ""),
        (FILE, "folder/precious", "theirs"),
    ];
    destination.unpack(&archive(&entries)).unwrap();
    destination.assert_outside_unchanged();
    for name in ["now", "before", "folder/precious"] {
        let path = destination.path().join(name);
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(path).unwrap(), b"theirs");
    }
}

#[test]
fn hard_links_refer_only_to_files_of_the_archive() {
    let destination = Destination::new();
    let absolute = destination.dir.path().join("outside/precious");
    destination.rejects(&[(HARD, "a", absolute.to_str().unwrap())]);
    destination.rejects(&[(HARD, "a", "../outside/precious")]);
    destination.rejects(&[(LINK, "l", "../outside/precious"), (HARD, "a", "l")]);
    destination.rejects(&[(LINK, "d", "../outside"), (HARD, "a", "d/precious")]);
    fs::write(destination.path().join("present"), "mine").unwrap();
    destination.rejects(&[(HARD, "a", "present")]);

    let entries = [
        (FILE, "one", "x"),
        (HARD, "two", "one"),
        (HARD, "two", "one"),
    ];
    destination.unpack(&archive(&entries)).unwrap();
    let inode = |name| fs::metadata(destination.path().join(name)).unwrap().ino();
    assert_eq!(inode("one"), inode("two"));
    destination.assert_outside_unchanged();
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
    let mode = fs::metadata(destination.path().join("program"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o7777, 0o777);
    assert_eq!(fs::read_dir(destination.path()).unwrap().count(), 1);
}

#[test]
fn cut_off_archive_leaves_no_partial_file() {
    let content = "x".repeat(5000);
    let whole = archive(&[(FILE, "first", "x"), (FILE, "second", &content)]);
    for end in [512, 700, 1024, 1300, 1600, 2048, 4000, 6000] {
        let destination = Destination::new();
        let outcome = destination.unpack(&whole[..end]);
        let second = destination.path().join("second");
        assert!(!second.exists(), "{end}");
        // Cut off between two files, it looks complete: only the exit code of
        // the command shows the failure.
        assert_eq!(outcome.is_ok(), end == 1024, "{end}: {outcome:?}");
        destination.assert_outside_unchanged();
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
    destination.assert_outside_unchanged();
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
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Directory);
            header.set_mode(mode);
            header.set_size(0);
            builder.append_data(&mut header, name, &[][..]).unwrap();
        }
    }
    destination.unpack(&builder.into_inner().unwrap()).unwrap();
    for name in ["a", "a/b", "a-b"] {
        let mode = fs::metadata(destination.path().join(name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o750, "{name}");
    }
}

#[test]
fn pack_then_unpack_preserves_everything() {
    use std::ffi::OsStr;
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::ffi::OsStrExt;

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
    let items = walk::walk(top, b"", &super::Rules::default(), &progress).unwrap();
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
    // The end mark counts as a file.
    assert_eq!(got.files, sent.files + 1);
    for name in [OsStr::new("empty"), not_utf8, OsStr::new("holes")] {
        let (a, b) = (top.join(name), destination.path().join(name));
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{name:?}");
        let (a, b) = (a.metadata().unwrap(), b.metadata().unwrap());
        assert_eq!((a.mtime(), a.mode()), (b.mtime(), b.mode()), "{name:?}");
    }
    let blocks = destination
        .path()
        .join("holes")
        .metadata()
        .unwrap()
        .blocks();
    assert!(blocks * 512 < 50 * 1024 * 1024, "{blocks}");
    assert_eq!(
        fs::read(destination.path().join(&long).join(&long)).unwrap(),
        b"long"
    );
    for link in ["link", "slashes"] {
        let read = |top: &Path| fs::read_link(top.join(link)).unwrap();
        assert_eq!(read(top), read(&destination.path()));
    }
    let ino = |name| destination.path().join(name).metadata().unwrap().ino();
    assert_eq!(ino("empty"), ino("empty2"));
}
