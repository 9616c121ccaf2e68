//! Programs of the machine that tests use. Where one is missing it is
//! installed, as the daemon is: `cargo test` is all that a stranger types.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Mutex;

pub struct Program {
    /// Succeeds where the program is there.
    check: &'static [&'static str],
    /// The Debian packages that have it.
    packages: &'static [&'static str],
}

pub const JQ: Program = Program {
    check: &["jq", "--version"],
    packages: &["jq"],
};
pub const NPM: Program = Program {
    check: &["npm", "--version"],
    packages: &["npm"],
};
pub const PYTHON: Program = Program {
    check: &["python3", "-c", "import ensurepip, venv"],
    packages: &["python3", "python3-venv"],
};
pub const SHELLCHECK: Program = Program {
    check: &["shellcheck", "--version"],
    packages: &["shellcheck"],
};
pub const SSH: Program = Program {
    check: &["ssh", "-V"],
    packages: &["openssh-client"],
};
pub const STRIP: Program = Program {
    check: &["strip", "--version"],
    packages: &["binutils"],
};

/// What a test that uses them begins with:
/// `if !programs::ready("name_of_the_test", &[programs::JQ]) { return }`.
///
/// Where they cannot be had the test is skipped **by name**, and that is a
/// failure when `PIXELS_TEST_INCUS=required`.
pub fn ready(test: &str, wanted: &[Program]) -> bool {
    let Err(reason) = present(wanted) else {
        return true;
    };
    assert!(
        std::env::var("PIXELS_TEST_INCUS").as_deref() != Ok("required"),
        "{test}: {reason}"
    );
    eprintln!("SKIPPED {test}: {reason}");
    false
}

/// Installs those of them that are missing; what went wrong where that cannot
/// be done.
pub fn present(wanted: &[Program]) -> Result<(), String> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(|e| e.into_inner());
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("not installed: {missing:?}, and no root to do so"));
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    // The lists may be there, and new enough.
    apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))?;
    match self::missing(wanted) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("installed, but of no use: {left:?}")),
    }
}

fn missing(wanted: &[Program]) -> BTreeSet<&'static str> {
    wanted
        .iter()
        .filter(|one| run(one.check).is_none_or(|output| !output.status.success()))
        .flat_map(|one| one.packages)
        .copied()
        .collect()
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    // Somebody else may be installing.
    let command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"];
    match run(&[&command, arguments].concat()) {
        Some(output) if output.status.success() => Ok(()),
        Some(output) => Err(format!(
            "apt-get {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        None => Err(format!("no apt-get for {arguments:?}")),
    }
}

/// Nothing where it does not start.
fn run(command: &[&str]) -> Option<Output> {
    Command::new(command[0])
        .args(&command[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .output()
        .ok()
}
