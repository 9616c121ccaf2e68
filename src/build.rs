//! Embeds `PIXELS_COMMIT`, or the commit hash of the checkout, in the binary.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=PIXELS_COMMIT");
    println!("cargo:rerun-if-changed=src/build.rs");
    // Only git knows these paths in a linked work tree. Cargo rebuilds on every run
    // if a watched file does not exist.
    for file in ["HEAD", "refs/heads", "packed-refs"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = std::env::var("PIXELS_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    let commit = commit.as_deref().map_or("unknown", str::trim);
    println!("cargo:rustc-env=PIXELS_COMMIT={commit}");
}

fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
