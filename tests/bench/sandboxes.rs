//! Benchmark of MCP sandboxes, created by an MCP client.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::measure::Contender;
use crate::report::Outcome;
use crate::rows::{Bench, raw_clone};

/// Timeout that only ends hanging requests.
const LIMIT: Duration = Duration::from_secs(60);

/// Creates a sandbox from an existing base and runs its first command.
pub fn create(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let mut contenders = Vec::new();
    for (who, path) in bench.pixels() {
        let server = Server::start(lab, path)?;
        contenders.push(Contender::new(who, move || {
            let begun = Instant::now();
            let arguments = json!({"base": "base", "wait_sec": LIMIT.as_secs()});
            let made = server.call("create_sandbox", arguments)?;
            ensure!(made["status"] == "running", "{made}");
            let name = &made["name"];
            let ran = server.call("exec", json!({"name": name, "command": ["true"]}))?;
            let took = begun.elapsed();
            ensure!(ran["exit_code"] == 0, "{ran}");
            server.call("destroy_sandbox", json!({"name": name}))?;
            Ok(took)
        }));
    }
    contenders.push(raw_clone(lab));
    bench.compare(contenders)
}

/// An MCP server whose only base is the base pixel of the lab.
struct Server {
    child: Child,
    address: String,
    _home: tempfile::TempDir,
}

impl Server {
    fn start(lab: &Lab, path: &Path) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let folder = home.path().join(".config/pixels");
        fs::create_dir_all(&folder)?;
        let prefix = lab.name("");
        let text = format!(
            "[mcp]\nbase_prefix = \"{prefix}\"\nprefix = \"{prefix}s-\"\n\
             listen_addr = \"127.0.0.1:0\"\n\
             [mcp.bases.base]\nparent_image = \"any\"\n"
        );
        fs::write(folder.join("config.toml"), text)?;
        let mut program = lab.program(path);
        program.home = home.path().to_owned();
        let mut child = program.command(&["mcp"]).spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("no stderr")?);
        let mut printed = String::new();
        let address = loop {
            let from = printed.len();
            if log.read_line(&mut printed)? == 0 {
                bail!("the server does not listen: {}", printed.trim());
            }
            if let Some((_, rest)) = printed[from..].split_once("Listening on http://")
                && let Some((address, _)) = rest.split_once('/')
            {
                break address.to_owned();
            }
        };
        // A full pipe without a reader would block the server.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self {
            child,
            address,
            _home: home,
        })
    }

    /// Calls a tool over a new connection and returns the result.
    fn call(&self, tool: &str, arguments: Value) -> Result<Value> {
        let params = json!({"name": tool, "arguments": arguments});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let body = message.to_string();
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let mut answer: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        ensure!(answer["result"]["isError"] == false, "{tool}: {answer}");
        Ok(answer["result"]["structuredContent"].take())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
