//! The real Incus daemon, brought up once by the product's own `setup`.

use std::process::Command;
use std::sync::OnceLock;

/// What a test that needs the daemon begins with:
/// `let Some(_lab) = support::lab::ready("name_of_the_test") else { return };`
///
/// Where the daemon cannot be had the test is skipped **by name**, and that
/// is a failure when `PIXELS_TEST_INCUS=required`.
pub fn ready(test: &str) -> Option<&'static Lab> {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    match LAB.get_or_init(bring_up) {
        Ok(lab) => Some(lab),
        Err(reason) => {
            assert!(
                std::env::var("PIXELS_TEST_INCUS").as_deref() != Ok("required"),
                "{test} needs the Incus daemon: {reason}"
            );
            eprintln!("SKIPPED {test}: {reason}");
            None
        }
    }
}

#[derive(Debug)]
pub struct Lab;

fn bring_up() -> Result<Lab, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("tests on a real daemon run as root".into());
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
    // With which tests make keys and enter pixels.
    super::programs::present(&[super::programs::SSH])?;
    sweep();
    Ok(Lab)
}

/// Removes what an earlier, killed run of the tests left; runs that are still
/// at work keep theirs.
fn sweep() {
    let env = super::env::TestEnv::bare();
    let outcome = env.pixels(["list", "--json"]);
    let pixels: Vec<serde_json::Value> = serde_json::from_str(&outcome.stdout).unwrap_or_default();
    let names: Vec<&str> = pixels
        .iter()
        .filter_map(|pixel| pixel["name"].as_str())
        .filter(|name| name.starts_with("t-") && !maker_lives(name))
        .collect();
    if !names.is_empty() {
        let _ = env.pixels(["destroy", "--force"].into_iter().chain(names));
    }
}

/// Names carry the process that made them; small numbers in them count things.
fn maker_lives(name: &str) -> bool {
    name.split('-')
        .filter_map(|part| part.parse::<u32>().ok())
        .any(|pid| pid >= 300 && std::path::Path::new(&format!("/proc/{pid}")).exists())
}
