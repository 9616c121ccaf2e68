//! The real Incus daemon, installed and started once by `pixels setup`.

use std::process::Command;
use std::sync::OnceLock;

/// Installs and starts the daemon if needed. First line of every test that
/// needs the daemon; the test also has `#[ignore = "needs Incus"]`.
///
/// # Panics
///
/// Panics if the daemon cannot be installed or started.
#[track_caller]
pub fn ready() {
    static LAB: OnceLock<Result<(), String>> = OnceLock::new();
    if let Err(reason) = LAB.get_or_init(bring_up) {
        panic!("the Incus daemon is not available: {reason}");
    }
}

fn bring_up() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("root is required".into());
    }
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let output = Command::new(super::env::BINARY)
        .args(["setup", "--yes"])
        .env("HOME", home.path())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!(
            "pixels setup failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    // Tests create keys and log in to pixels with OpenSSH.
    super::programs::install(&[super::programs::SSH])?;
    delete_leftovers();
    Ok(())
}

/// Deletes pixels of earlier test processes that were killed. Pixels of running
/// test processes are kept.
fn delete_leftovers() {
    let env = super::env::TestEnv::bare();
    let mut names = env.list();
    names.retain(|name| name.starts_with("t-") && !creator_runs(name));
    let _ = env.destroy(names);
}

/// Whether the test process whose id is part of the name is running.
/// Numbers below 300 are counters.
pub fn creator_runs(name: &str) -> bool {
    name.split('-')
        .filter_map(|part| part.parse::<u32>().ok())
        .any(|pid| pid >= 300 && std::path::Path::new(&format!("/proc/{pid}")).exists())
}
