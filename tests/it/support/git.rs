//! The git of this machine.

use std::path::Path;
use std::process::Command;

/// Runs git with an author of its own; it must succeed.
#[track_caller]
pub fn git(dir: &Path, args: &[&str]) {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@git.test",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {reported}");
}
