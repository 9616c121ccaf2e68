//! The git of this machine.

use std::path::Path;
use std::process::Command;

use super::programs::output_of;

/// Runs git with an author of its own; it must succeed.
#[track_caller]
pub fn git(dir: &Path, args: &[&str]) {
    output_of(
        Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@git.test"])
            .args(["-c", "init.defaultBranch=main"])
            .args(args)
            .current_dir(dir),
    );
}
