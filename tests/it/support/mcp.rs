//! An MCP server for one test, and an MCP client over plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::env::TestEnv;
use super::lab;
use super::wait::{exit_code, until_or};

/// Timeout that only ends hanging requests.
const LIMIT: Duration = Duration::from_secs(90);

/// The headers of every MCP message.
pub const MESSAGE_HEADERS: [(&str, &str); 2] = [
    ("Content-Type", "application/json"),
    ("Accept", "application/json, text/event-stream"),
];

pub struct McpServer {
    child: Child,
    log: Arc<Mutex<String>>,
    address: String,
}

/// A client of an MCP server.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: String,
    pub token: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// An environment with unique names for sandboxes and bases, and with a base
/// `quick` without provisioning steps.
pub fn environment(test: &str) -> TestEnv {
    let mut env = TestEnv::new(test);
    let (sandboxes, bases) = (sandbox_prefix(&env), format!("{}-", env.name("b")));
    env.set("PIXELS_MCP_PREFIX", &sandboxes)
        .set("PIXELS_MCP_BASE_PREFIX", &bases)
        .set("PIXELS_MCP_LISTEN_ADDR", "127.0.0.1:0");
    env.config("[mcp.bases.quick]\nparent_image = \"ubuntu/24.04\"\n");
    env
}

/// Name prefix of the environment's sandboxes.
pub fn sandbox_prefix(env: &TestEnv) -> String {
    format!("{}-", env.name("s"))
}

/// The pixel name of the base `quick`.
pub fn quick_base(env: &TestEnv) -> String {
    format!("{}-quick", env.name("b"))
}

/// Starts an MCP server on the real daemon. Also returns a client.
pub fn on_lab(test: &str) -> (TestEnv, McpServer, Client) {
    lab::ready();
    let env = environment(test);
    let server = McpServer::start(&env);
    let client = server.client();
    (env, server, client)
}

/// The `initialize` message for this protocol version.
pub fn initialize(version: &str) -> Value {
    let params = json!({"protocolVersion": version, "capabilities": {},
                        "clientInfo": {"name": "test", "version": "1"}});
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
}

#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Asserts that `value` has all fields of `expected`.
#[track_caller]
pub fn assert_fields(value: &Value, expected: Value) {
    for (field, expected) in expected.as_object().unwrap() {
        assert_eq!(&value[field], expected, "{field}: {value}");
    }
}

impl McpServer {
    pub fn start(env: &TestEnv) -> Self {
        let mut child = env.spawn(["mcp"]);
        drop(child.stdin.take());
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let to = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = to.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = until_or(
            || {
                let log = log.lock().unwrap();
                let (_, rest) = log.split_once("Listening on http://")?;
                Some(rest.split('/').next()?.to_owned())
            },
            || format!("the server does not listen: {}", log.lock().unwrap()),
        );
        Self {
            child,
            log,
            address,
        }
    }

    pub fn client(&self) -> Client {
        Client {
            address: self.address.clone(),
            token: None,
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the server with SIGTERM and returns its exit code.
    pub fn end(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        exit_code(&mut self.child)
    }
}

impl Drop for McpServer {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Client {
    /// Sends a request on a new connection. `None` if the connection breaks.
    pub fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let has = |name: &str| {
            headers
                .iter()
                .any(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        if !has("Host") {
            text.push_str(&format!("Host: {}\r\n", self.address));
        }
        if !has("Content-Length") {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes()).ok()?;
        // A server that rejects a request may not read the whole body.
        let _ = stream.write_all(body.as_bytes());
        Some(stream)
    }

    /// Like [`Self::begin`], and reads the response.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Answer> {
        read(self.begin(method, path, headers, body)?)
    }

    /// Sends an MCP message, with `headers` in addition to the usual headers.
    pub fn begin_message(&self, message: &Value, headers: &[(&str, &str)]) -> Option<TcpStream> {
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut all = MESSAGE_HEADERS.to_vec();
        all.extend_from_slice(headers);
        if let Some(authorization) = &authorization {
            all.push(("Authorization", authorization));
        }
        self.begin("POST", "/mcp", &all, &message.to_string())
    }

    pub fn message(&self, message: &Value, headers: &[(&str, &str)]) -> Option<Answer> {
        read(self.begin_message(message, headers)?)
    }

    /// Calls a tool. Returns result or error, `None` if the HTTP call fails.
    pub fn try_call(&self, tool: &str, arguments: Value) -> Option<Result<Value, String>> {
        let params = json!({"name": tool, "arguments": arguments});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let answer = self.message(&message, &[])?;
        if answer.status != 200 {
            return None;
        }
        let mut document: Value = serde_json::from_str(&answer.body).ok()?;
        let result = document["result"].take();
        let text = || result["content"][0]["text"].as_str().unwrap_or_default();
        match result["isError"].as_bool() {
            Some(true) => Some(Err(text().to_owned())),
            Some(false) => {
                let structured = result["structuredContent"].clone();
                // The text repeats the structured content.
                let printed: Value = serde_json::from_str(text()).unwrap();
                assert_eq!(printed, structured);
                Some(Ok(structured))
            }
            None => Some(Err(format!("no result: {}", answer.body))),
        }
    }

    #[track_caller]
    pub fn call(&self, tool: &str, arguments: Value) -> Value {
        match self.try_call(tool, arguments) {
            Some(Ok(value)) => value,
            other => panic!("{tool}: {other:?}"),
        }
    }

    #[track_caller]
    pub fn refused(&self, tool: &str, arguments: Value) -> String {
        match self.try_call(tool, arguments) {
            Some(Err(reason)) => reason,
            other => panic!("{tool} did not fail: {other:?}"),
        }
    }

    /// Creates a running sandbox from a base and returns its name.
    #[track_caller]
    pub fn sandbox(&self, base: &str) -> String {
        let made = self.call("create_sandbox", json!({"base": base, "wait_sec": 60}));
        assert_eq!(made["status"], "running", "{made}");
        text(&made["name"])
    }

    /// Runs a command in a sandbox.
    #[track_caller]
    pub fn exec(&self, sandbox: &str, command: &[&str]) -> Value {
        self.call("exec", json!({"name": sandbox, "command": command}))
    }

    /// Starts a shell script as a job and returns the job's id.
    #[track_caller]
    pub fn job(&self, sandbox: &str, script: &str) -> String {
        let command = ["sh", "-c", script];
        let started = self.call("exec_start", json!({"name": sandbox, "command": command}));
        text(&started["job_id"])
    }

    /// Runs a shell script in a sandbox and returns its stdout.
    #[track_caller]
    pub fn sh(&self, sandbox: &str, script: &str) -> String {
        let ran = self.exec(sandbox, &["sh", "-c", script]);
        assert_eq!(ran["exit_code"], 0, "{ran}");
        text(&ran["stdout"])
    }

    /// The names and states of all sandboxes.
    #[track_caller]
    pub fn list(&self) -> Vec<(String, String)> {
        let list = self.call("list_sandboxes", json!({}));
        let all = list["sandboxes"].as_array().unwrap().iter();
        all.map(|it| (text(&it["name"]), text(&it["status"])))
            .collect()
    }
}

/// Reads a response until the connection closes.
fn read(mut stream: TcpStream) -> Option<Answer> {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}
