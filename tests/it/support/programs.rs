//! Debian packages that tests need. Missing packages are installed, so that
//! `cargo test -- --include-ignored` works on a fresh machine.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Mutex;

pub struct Program {
    /// Exits with 0 if the program is installed.
    check: &'static [&'static str],
    /// Debian packages that contain the program.
    packages: &'static [&'static str],
}

pub const JQ: Program = program(&["jq", "--version"], &["jq"]);
pub const NPM: Program = program(&["npm", "--version"], &["npm"]);
pub const PYTHON: Program = program(
    &["python3", "-c", "import ensurepip, venv"],
    &["python3", "python3-venv"],
);
pub const SHELLCHECK: Program = program(&["shellcheck", "--version"], &["shellcheck"]);
pub const SSH: Program = program(&["ssh", "-V"], &["openssh-client"]);
pub const STRIP: Program = program(&["strip", "--version"], &["binutils"]);

const fn program(check: &'static [&'static str], packages: &'static [&'static str]) -> Program {
    Program { check, packages }
}

/// Runs a command and returns its stdout. Panics if the command fails.
#[track_caller]
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{stdout}{stderr}");
    stdout
}

/// Installs missing programs. First line of every test that needs programs
/// other than Incus; the test also has `#[ignore = "needs PROGRAM"]`.
///
/// # Panics
///
/// Panics if a program is missing and cannot be installed.
#[track_caller]
pub fn ready(programs: &[Program]) {
    if let Err(reason) = install(programs) {
        panic!("{reason}");
    }
}

/// Installs missing programs. Fails if this process is not root, or if a
/// program does not run after the installation.
pub fn install(wanted: &[Program]) -> Result<(), String> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(|e| e.into_inner());
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!(
            "{missing:?} not installed, and root is required to install"
        ));
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    // Existing package lists may be recent enough.
    apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))?;
    match self::missing(wanted) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("installed, but not working: {left:?}")),
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
    // Another process may hold the package manager's lock.
    let command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"];
    match run(&[&command, arguments].concat()) {
        Some(output) if output.status.success() => Ok(()),
        Some(output) => Err(format!(
            "apt-get {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        None => Err(format!("cannot start apt-get {arguments:?}")),
    }
}

/// Returns `None` if the program cannot be started.
fn run(command: &[&str]) -> Option<Output> {
    Command::new(command[0])
        .args(&command[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .output()
        .ok()
}
