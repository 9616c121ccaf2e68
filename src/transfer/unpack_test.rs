//! Archives that a hostile pixel may send.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::confined_write::Tree;
use super::unpack::{OwnerMapping, UnpackTarget, unpack};
use super::{Ownership, Report, TransferProgress, pack, walk};
use crate::model::Result;

/// A destination beside something that must not be touched.
struct Place {
    dir: TempDir,
    meter: TransferProgress,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("to")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/precious"), "mine").unwrap();
        let meter = TransferProgress::default();
        Self { dir, meter }
    }

    fn to(&self) -> PathBuf {
        self.dir.path().join("to")
    }

    fn unpack(&self, archive: &[u8]) -> Result<Report> {
        let mut tree = Tree::open(&self.to()).unwrap();
        let owner = Ownership::One(crate::model::Ids::ROOT);
        let arrival = UnpackTarget {
            naming: OwnerMapping::Kept,
            ownership: owner,
            times: HashMap::new(),
        };
        unpack(archive, &mut tree, &arrival, &self.meter)
    }

    /// What is refused leaves the rest of the machine alone, and no half file.
    #[track_caller]
    fn refuses(&self, entries: &[Made<'_>]) {
        let outcome = self.unpack(&archive(entries));
        assert!(outcome.is_err(), "{outcome:?}");
        self.is_untouched();
    }

    #[track_caller]
    fn is_untouched(&self) {
        let outside = self.dir.path().join("outside");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"mine");
        let beside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().collect();
        assert_eq!(beside.len(), 2);
        assert!(temporaries(&self.to()).is_empty());
    }
}

fn temporaries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let named = |path: &PathBuf| path.to_string_lossy().contains(".pixels-");
    entries.filter(named).collect()
}

/// Kind, name, link target or content.
type Made<'a> = (EntryType, &'a str, &'a str);

/// Names go in as they are, which the builder of the crate would refuse.
fn archive(entries: &[Made<'_>]) -> Vec<u8> {
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
const FOLDER: EntryType = EntryType::Directory;

#[test]
fn names_that_lead_out_are_refused() {
    let place = Place::new();
    let absolute = place.dir.path().join("outside/precious");
    place.refuses(&[(FILE, absolute.to_str().unwrap(), "theirs")]);
    for name in [
        "../outside/precious",
        "a/../../outside/precious",
        "./../outside/x",
        "..",
    ] {
        place.refuses(&[(FILE, name, "theirs")]);
        place.refuses(&[(LINK, name, "x")]);
    }
    place.refuses(&[(FOLDER, "../outside/new", "")]);
}

#[test]
fn nothing_goes_through_a_link() {
    let outside = "../outside";
    let place = Place::new();
    place.refuses(&[(LINK, "a", outside), (FILE, "a/precious", "theirs")]);
    place.refuses(&[(LINK, "b", outside), (FILE, "b/new", "theirs")]);
    place.refuses(&[(LINK, "c", "/"), (FILE, "c/tmp/x/y", "theirs")]);
    place.refuses(&[(LINK, "d", outside), (LINK, "d/new", "x")]);
    place.refuses(&[
        (FOLDER, "e", ""),
        (LINK, "e/f", "../../outside"),
        (FILE, "e/f/x", ""),
    ]);
    // Also not through one that was there before.
    symlink(place.dir.path().join("outside"), place.to().join("mine")).unwrap();
    place.refuses(&[(FILE, "mine/precious", "theirs")]);
    assert!(place.to().join("mine").is_symlink());
}

#[test]
fn a_link_is_replaced_and_not_written_through() {
    let place = Place::new();
    symlink("../outside/precious", place.to().join("before")).unwrap();
    let entries = [
        (LINK, "now", "../outside/precious"),
        (FILE, "now", "theirs"),
        (FILE, "before", "theirs"),
        (LINK, "folder", "../outside"),
        (FOLDER, "folder", ""),
        (FILE, "folder/precious", "theirs"),
    ];
    place.unpack(&archive(&entries)).unwrap();
    place.is_untouched();
    for name in ["now", "before", "folder/precious"] {
        let path = place.to().join(name);
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(path).unwrap(), b"theirs");
    }
}

#[test]
fn further_names_are_only_for_what_the_archive_brought() {
    let place = Place::new();
    let absolute = place.dir.path().join("outside/precious");
    place.refuses(&[(HARD, "a", absolute.to_str().unwrap())]);
    place.refuses(&[(HARD, "a", "../outside/precious")]);
    place.refuses(&[(LINK, "l", "../outside/precious"), (HARD, "a", "l")]);
    place.refuses(&[(LINK, "d", "../outside"), (HARD, "a", "d/precious")]);
    fs::write(place.to().join("present"), "mine").unwrap();
    place.refuses(&[(HARD, "a", "present")]);

    let entries = [
        (FILE, "one", "x"),
        (HARD, "two", "one"),
        (HARD, "two", "one"),
    ];
    place.unpack(&archive(&entries)).unwrap();
    let of = |name| fs::metadata(place.to().join(name)).unwrap().ino();
    assert_eq!(of("one"), of("two"));
    place.is_untouched();
}

#[test]
fn devices_and_powers_do_not_come_along() {
    let place = Place::new();
    let entries = [
        (EntryType::Char, "null", ""),
        (EntryType::Block, "disk", ""),
        (EntryType::Fifo, "pipe", ""),
        (FILE, "program", "x"),
    ];
    let report = place.unpack(&archive(&entries)).unwrap();
    assert_eq!((report.files, report.skipped), (1, 3));
    let mode = fs::metadata(place.to().join("program")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o777);
    assert_eq!(fs::read_dir(place.to()).unwrap().count(), 1);
}

#[test]
fn a_cut_off_archive_leaves_no_half_file() {
    let content = "x".repeat(5000);
    let whole = archive(&[(FILE, "first", "x"), (FILE, "second", &content)]);
    for end in [512, 700, 1024, 1300, 1600, 2048, 4000, 6000] {
        let place = Place::new();
        let outcome = place.unpack(&whole[..end]);
        let second = place.to().join("second");
        assert!(!second.exists(), "{end}");
        // Between two files it looks whole: the command's exit code tells.
        assert_eq!(outcome.is_ok(), end == 1024, "{end}: {outcome:?}");
        place.is_untouched();
    }
}

#[test]
fn headers_without_end_are_refused() {
    let place = Place::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut endless = header.as_bytes().to_vec();
    endless.resize(20 * 1024 * 1024, b'a');
    assert!(place.unpack(&endless).is_err());
    place.is_untouched();
    for noise in [&b"x"[..], &[0xff; 512], &[7; 4096]] {
        assert!(place.unpack(noise).is_err());
    }
    assert!(place.unpack(&[0; 1024]).is_ok());
}

#[test]
fn a_folder_that_comes_again_and_again_is_one() {
    let place = Place::new();
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
    place.unpack(&builder.into_inner().unwrap()).unwrap();
    for name in ["a", "a/b", "a-b"] {
        let mode = fs::metadata(place.to().join(name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o750, "{name}");
    }
}

#[test]
fn what_is_packed_comes_out_the_same() {
    use std::ffi::OsStr;
    use std::io::{Seek, SeekFrom, Write};
    use std::os::unix::ffi::OsStrExt;

    let from = tempfile::tempdir().unwrap();
    let top = from.path();
    let strange = OsStr::from_bytes(b"\xff\n \\ *");
    fs::write(top.join("empty"), "").unwrap();
    fs::write(top.join(strange), "strange").unwrap();
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

    let meter = TransferProgress::default();
    let items = walk::walk(top, b"", &super::Rules::default(), &meter).unwrap();
    let mut packed = Vec::new();
    let owner = Ownership::Kept;
    let sent = pack::pack(&items[1..], owner, &meter, &mut packed).unwrap();
    assert!(
        packed.len() < 2 * 1024 * 1024,
        "holes were sent: {}",
        packed.len()
    );
    assert_eq!(meter.done(), meter.total());
    let place = Place::new();
    let got = place.unpack(&packed).unwrap();
    // The mark at the end counts as one.
    assert_eq!(got.files, sent.files + 1);
    for name in [OsStr::new("empty"), strange, OsStr::new("holes")] {
        let (a, b) = (top.join(name), place.to().join(name));
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{name:?}");
        let (a, b) = (a.metadata().unwrap(), b.metadata().unwrap());
        assert_eq!((a.mtime(), a.mode()), (b.mtime(), b.mode()), "{name:?}");
    }
    let blocks = place.to().join("holes").metadata().unwrap().blocks();
    assert!(blocks * 512 < 50 * 1024 * 1024, "{blocks}");
    assert_eq!(
        fs::read(place.to().join(&long).join(&long)).unwrap(),
        b"long"
    );
    for link in ["link", "slashes"] {
        let read = |top: &Path| fs::read_link(top.join(link)).unwrap();
        assert_eq!(read(top), read(&place.to()));
    }
    let ino = |name| place.to().join(name).metadata().unwrap().ino();
    assert_eq!(ino("empty"), ino("empty2"));
}
