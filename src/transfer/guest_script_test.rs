//! Tests the scripts of `guest/` on this machine, without a pixel.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::guest_script::{INPUT_CUT_OFF, NO_SUCH_PATH, NOT_A_DIRECTORY};
use super::{Ownership, Rules, TransferProgress, pack, walk};
use crate::model::Ids;

const RECEIVE: &str = include_str!("guest/receive.sh");
const SEND: &str = include_str!("guest/send.sh");
const ID: &str = ".pixels-test";

fn run(script: &str, args: &[String], input: &[u8]) -> Output {
    let mut child = Command::new("sh")
        .args(["-c", script, "script"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The script may exit without reading its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn ids() -> Ids {
    Ids {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

fn receive(dest: &Path, format: &str, placement: &str, input: &[u8]) -> i32 {
    let Ids { uid, gid } = ids();
    let args = [
        format!("dest={}", dest.display()),
        format!("format={format}"),
        format!("placement={placement}"),
        format!("id={ID}"),
        format!("owner={uid}:{gid}"),
        "mode=640".into(),
    ];
    run(RECEIVE, &args, input).status.code().unwrap()
}

/// Packs these files of `tree` into an archive.
fn archive(files: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
        fs::write(dir.path().join(file), file).unwrap();
    }
    let progress = TransferProgress::default();
    let items = walk::walk(dir.path(), b"tree", &mut Rules::default(), &progress).unwrap();
    let mut archive = Vec::new();
    pack::pack(&items, Ownership::One(ids()), &progress, &mut archive).unwrap();
    archive
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn receive_stream_replaces_the_file_only_when_complete() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("new/file");
    assert_eq!(receive(&dest, "stream", "rename", b"text.pixels-test"), 0);
    assert_eq!(fs::read_to_string(&dest).unwrap(), "text");
    assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o7777, 0o640);
    let cut_off = receive(&dest, "stream", "rename", b"other text");
    assert_eq!(cut_off, INPUT_CUT_OFF);
    assert_eq!(fs::read_to_string(&dest).unwrap(), "text");
    assert_eq!(receive(dir.path(), "stream", "rename", b"x.pixels-test"), 1);
    assert_eq!(names(&dir.path().join("new")), ["file"]);
    assert_eq!(names(dir.path()), ["new"]);
}

#[test]
fn receive_tar_places_entries_as_cp_does() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let one = archive(&["a"]);
    assert_eq!(receive(&at("renamed"), "tar", "rename", &one), 0);
    assert_eq!(fs::read_to_string(at("renamed")).unwrap(), "a");
    assert_eq!(receive(&at("into"), "tar", "into", &one), 0);
    assert_eq!(receive(&at("into"), "tar", "rename", &archive(&[".b"])), 0);
    assert_eq!(names(&at("into")), [".b", "a"]);
    let sub = archive(&["sub/c"]);
    fs::set_permissions(at("into"), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(receive(&at("into"), "tar", "contents", &sub), 0);
    assert_eq!(fs::metadata(at("into")).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(receive(&at("new"), "tar", "contents", &sub), 0);
    assert_eq!(names(&at("into")), [".b", "a", "sub"]);
    assert_eq!(names(&at("new/sub")), ["c"]);
    // A file must not replace a directory.
    assert_eq!(receive(&at("into"), "tar", "into", &archive(&["sub"])), 1);
    assert_eq!(names(dir.path()), ["into", "new", "renamed"]);
}

#[test]
fn receive_tar_rejects_an_archive_without_end_mark() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(&["a"]);
    // Header and content of the directory and of the file have 512 bytes each.
    let cut_off = [&archive[..1536], &[0; 1024]].concat();
    let dest = dir.path().join("dest");
    assert_eq!(receive(&dest, "tar", "contents", &cut_off), INPUT_CUT_OFF);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn send_prints_size_and_archive_or_fails() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "12345").unwrap();
    fs::write(dir.path().join("b"), "").unwrap();
    let send = |name: &str, mode: &str, input: &[u8]| {
        let path = dir.path().join(name).display().to_string();
        run(SEND, &[path, mode.into(), "size".into()], input)
    };
    let unpacked = |output: Output| {
        let end = output.stdout.iter().position(|&b| b == b'\n').unwrap();
        let mut archive = tar::Archive::new(&output.stdout[end + 1..]);
        let entries = archive.entries().unwrap();
        let names = entries.map(|e| e.unwrap().path().unwrap().display().to_string());
        (output.stdout[..end].to_vec(), names.collect::<Vec<_>>())
    };
    let (size, names) = unpacked(send("a", "whole", b""));
    assert_eq!(
        (&size[..], &names[..]),
        (&b"5"[..], &["./a".to_owned()][..])
    );
    let (_, names) = unpacked(send("", "names", b"./b\0"));
    assert_eq!(names, ["./b"]);
    let (_, names) = unpacked(send("", "contents", b""));
    assert_eq!(names.len(), 3);
    assert_eq!(send("c", "whole", b"").status.code(), Some(NO_SUCH_PATH));
    let not_a_dir = send("a", "contents", b"").status.code();
    assert_eq!(not_a_dir, Some(NOT_A_DIRECTORY));
}
