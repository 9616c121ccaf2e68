//! Runs the installed git.

use std::path::Path;
use std::process::Command;

use super::programs::output_of;

/// Runs git with a fixed author. Panics if git fails.
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
