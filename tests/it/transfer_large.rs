//! Pushes of large files into a running pixel, over SFTP.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::lab;
use crate::support::wait;
use crate::transfer::{Pixel, noise};

/// Just above the limit for a large file.
const SIZE: usize = 17 * 1024 * 1024;
/// Large enough to interrupt a push.
const LONG: usize = 150_000_000;

/// Creates a local file and returns its path and SHA-256 sum.
fn file(pixel: &Pixel, name: &str, size: usize) -> (PathBuf, String) {
    let path = PathBuf::from(pixel.here("")).join(OsStr::from_bytes(name.as_bytes()));
    fs::write(&path, noise(size, size as u64)).unwrap();
    let output = Command::new("sha256sum").arg("-b").arg(&path).output();
    let sum = String::from_utf8(output.unwrap().stdout).unwrap();
    let sum = sum.trim_start_matches('\\').split(' ').next().unwrap();
    (path, sum.to_owned())
}

#[test]
#[ignore = "needs Incus"]
fn large_push_resolves_targets() {
    lab::ready();
    arrives(&Pixel::new("large"));
}

pub fn arrives(pixel: &Pixel) {
    let (source, sum) = file(pixel, "one two\n\u{e9}", SIZE);
    let changed = UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    let opened = fs::File::options().write(true).open(&source).unwrap();
    opened.set_modified(changed).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o4751)).unwrap();
    let source = source.to_str().unwrap();
    let push = |more: &[&str], to: &str| {
        let to = pixel.there(to);
        pixel.run(&[&["push"], more, &[source, &to]].concat())
    };
    let is_there = |path: &str| {
        let script = format!("sha256sum <\"{path}\"; stat -c '%a %.9Y %u:%g' \"{path}\"");
        let expected = format!("{sum}  -\n4751 1600000000.123456789 0:0\n");
        assert_eq!(pixel.sh(&script), expected, "{path}");
    };
    push(&[], "/w/new/name").ok();
    is_there("/w/new/name");
    // Copies into a new and into an existing directory.
    pixel.sh("mkdir -p /w/is");
    for to in ["/w/made/", "/w/is", "/w/is/"] {
        push(&[], to).ok();
        is_there(&format!("{}/one two\n\u{e9}", to.trim_end_matches('/')));
    }
    // Replaces a file and a symbolic link, but neither the link's target nor a
    // directory.
    pixel.sh(
        "cd /w; echo old >file; echo kept >kept; ln -s kept link; mkdir -p 'into/one two\n\u{e9}'",
    );
    for to in ["/w/file", "/w/link"] {
        push(&[], to).ok();
        is_there(to);
    }
    assert_eq!(pixel.sh("cat /w/kept"), "kept\n");
    let refused = push(&[], "/w/into/").expect(1);
    assert!(
        refused.stderr.contains("is a directory"),
        "{}",
        refused.stderr
    );
    push(&["--owner", "3:7"], "/w/owned").ok();
    assert_eq!(pixel.sh("stat -c '%a %u:%g' /w/owned"), "4751 3:7\n");

    // A full disk is reported, and the previous file is unchanged.
    pixel.sh("mkdir /w/small; mount -t tmpfs -o size=8m none /w/small; echo old >/w/small/file");
    let full = push(&[], "/w/small/file").expect(1);
    assert!(
        full.stderr.to_lowercase().contains("space"),
        "{}",
        full.stderr
    );
    assert_eq!(pixel.sh("ls -A /w/small; cat /w/small/file"), "file\nold\n");

    // With /proc hidden, the server does not see the prepared directory, and
    // the push still succeeds.
    let hidden = "mount -t tmpfs none /proc; ls /proc; umount /w/small";
    assert_eq!(pixel.sh(hidden), "");
    push(&[], "/w/hidden").ok();
    is_there("/w/hidden");
    let left = "umount /proc; find / -xdev -name '.pixels*'";
    assert_eq!(pixel.sh(left), "");
}

/// Waits until pixels has read a part of the file, then stops pixels.
fn stop_halfway(child: &Child, source: &Path) {
    let dir = PathBuf::from(format!("/proc/{}", child.id()));
    let position = || {
        let all = fs::read_dir(dir.join("fd")).ok()?.flatten();
        let mut all = all.map(|entry| entry.path());
        let open = all.find(|fd| fs::read_link(fd).is_ok_and(|to| to == source))?;
        let info = dir.join("fdinfo").join(open.file_name()?);
        let info = fs::read_to_string(info).ok()?;
        let position = info.lines().next()?.split_whitespace().nth(1)?;
        position.parse::<usize>().ok()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    // The loop has no pause, because the push ends soon.
    while position().is_none_or(|at| at < LONG / 20) {
        assert!(Instant::now() < deadline, "pixels never reads {source:?}");
    }
    kill_process(Pid::from_child(child), Signal::STOP).unwrap();
    let at = position().unwrap();
    assert!(at < LONG, "the push has already read the whole file");
}

#[test]
#[ignore = "needs Incus"]
fn killed_large_push_leaves_nothing() {
    lab::ready();
    leaves_nothing(&Pixel::new("large-killed"));
}

pub fn leaves_nothing(pixel: &Pixel) {
    let (source, sum) = file(pixel, "large", LONG);
    let (source, to) = (source.canonicalize().unwrap(), pixel.there("/w/large"));
    let args = ["push", source.to_str().unwrap(), &to];
    pixel.sh("mkdir -p /w; echo before >/w/large");
    for signal in [Signal::KILL, Signal::INT] {
        let mut child = pixel.env.spawn(args);
        stop_halfway(&child, &source);
        // The partial file has another name and is readable only by its owner.
        let so_far = pixel.sh("cat /w/large; stat -c '%a %u' /w/.pixels-*/ /w/.pixels-*/content");
        assert_eq!(so_far, "before\n700 0\n600 0\n");
        let process = Pid::from_child(&child);
        kill_process(process, signal).unwrap();
        kill_process(process, Signal::CONT).unwrap();
        let code = wait::exit_code(&mut child);
        assert_eq!(code, if signal == Signal::KILL { 1009 } else { 130 });
        pixel.comes_to("ls -A /w; cat /w/large", "large\nbefore\n");
    }
    pixel.run(&args).ok();
    let there = pixel.sh("sha256sum </w/large; ls -A /w");
    assert_eq!(there, format!("{sum}  -\nlarge\n"));
}

/// The owner of the parent directory can replace a directory that root has just
/// created. Root must not write to the replacement.
#[test]
#[ignore = "needs root"]
fn large_push_refuses_replaced_directory() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(dir.path().join("victim"), "untouched").unwrap();
    symlink(at("victim"), theirs.join("content")).unwrap();
    fs::create_dir(dir.path().join("bin")).unwrap();
    fs::create_dir(dir.path().join("w")).unwrap();
    let mkdir = format!(
        "#!/bin/sh\nfor last; do :; done\nln -s {} \"$last\"\n",
        at("theirs")
    );
    let fake = dir.path().join("bin/mkdir");
    fs::write(&fake, mkdir).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    // The directory first has the wrong mode, then the right mode.
    for (mode, printed) in [(0o755, "was replaced"), (0o700, "content")] {
        fs::set_permissions(&theirs, fs::Permissions::from_mode(mode)).unwrap();
        let script = include_str!("../../src/transfer/guest/receive.sh");
        let target = at("w/file");
        let run = Command::new("sh")
            .args(["-c", script, "receive", &format!("dest={target}")])
            .args(["format=sftp", "placement=rename", "id=.pixels-1"])
            .args([
                "owner=0:0",
                "mode=644",
                "mtime=1.5",
                "fileowner=0:0",
                "name=file",
            ])
            .env(
                "PATH",
                format!("{}:{}", at("bin"), std::env::var("PATH").unwrap()),
            )
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(!run.status.success());
        assert_eq!(String::from_utf8_lossy(&run.stdout), "");
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert!(stderr.contains(printed), "{stderr}");
        let victim = fs::read_to_string(dir.path().join("victim")).unwrap();
        assert_eq!(victim, "untouched");
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path().join("w")).unwrap().count(), 0);
    }
}
