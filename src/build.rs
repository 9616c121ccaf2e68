//! Stamps the commit into the binary, where there is one to be told.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=PIXELS_COMMIT");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    let commit = std::env::var("PIXELS_COMMIT").ok().or_else(|| {
        let output = Command::new("git")
            .args(["rev-parse", "--short=12", "HEAD"])
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    });
    let commit = commit.as_deref().map_or("unknown", str::trim);
    println!("cargo:rustc-env=PIXELS_COMMIT={commit}");
}
