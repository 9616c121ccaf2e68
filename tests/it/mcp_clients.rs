//! The official clients against the real thing. They are installed once, below
//! the target folder; where that cannot be done the test is skipped by name,
//! and fails with `PIXELS_TEST_CLIENTS=required`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::env::{BINARY, TestEnv};
use crate::support::lab;
use crate::support::mcp::{McpServer, environment};

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

fn python() -> Result<PathBuf, String> {
    let venv = folder().join("python");
    let python = venv.join("bin/python");
    if !venv.join("done").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "mcp"]))?;
        std::fs::write(venv.join("done"), "").map_err(|e| e.to_string())?;
    }
    Ok(python)
}

/// The folder of the packages, with the script in it: that is where node looks.
fn node() -> Result<PathBuf, String> {
    let folder = folder().join("node");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    if !folder.join("done").exists() {
        let packages = [
            "@modelcontextprotocol/sdk",
            "@modelcontextprotocol/inspector",
        ];
        let install = [
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--prefix",
            ".",
        ];
        run(Command::new("npm")
            .args(install)
            .args(packages)
            .current_dir(&folder))?;
        std::fs::write(folder.join("done"), "").map_err(|e| e.to_string())?;
    }
    std::fs::copy(script("drive.mjs"), folder.join("drive.mjs")).map_err(|e| e.to_string())?;
    Ok(folder)
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
    drive(&env, || {
        let mut command = Command::new("node");
        command.arg(folder.join("drive.mjs"));
        command
    });
    let server = McpServer::start(&env);
    let url = format!("http://{}/mcp", server.client().address);
    let inspect = |arguments: &[&str]| {
        let program = folder.join("node_modules/.bin/mcp-inspector");
        let mut command = Command::new(program);
        command
            .args(["--cli", &url, "--transport", "http"])
            .args(arguments);
        run(&mut command).unwrap()
    };
    assert!(inspect(&["--method", "tools/list"]).contains("\"fork_sandbox\""));
    let bases = inspect(&["--method", "tools/call", "--tool-name", "list_bases"]);
    assert!(bases.contains("quick"), "{bases}");
}
