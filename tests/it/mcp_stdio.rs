//! Clients that start the server over stdio and share one server.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout};

use serde_json::{Value, json};

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::mcp::{McpServer, environment, initialize};
use crate::support::wait::{eventually, exit_code};

struct Stdio {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    last: u64,
}

impl Stdio {
    fn start(env: &TestEnv) -> Self {
        let mut child = env.spawn(["mcp", "--stdio"]);
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut client = Self {
            child,
            input,
            output,
            last: 0,
        };
        client.write(&initialize("2025-11-25").to_string());
        let hello = client.read();
        assert_eq!(hello["result"]["protocolVersion"], "2025-11-25", "{hello}");
        client
    }

    fn write(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let id = self.last;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.write(&message.to_string());
        id
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.read();
            if message["id"] == id {
                return message;
            }
        }
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.send("tools/call", json!({"name": tool, "arguments": arguments}));
        let mut answer = self.answer(id);
        assert_eq!(answer["result"]["isError"], false, "{tool}: {answer}");
        answer["result"]["structuredContent"].take()
    }

    fn end(mut self) {
        drop(self.input.take());
        assert_eq!(exit_code(&mut self.child), 0);
    }
}

#[test]
#[ignore = "needs Incus"]
fn stdio_clients_share_server_and_take_it_over() {
    lab::ready();
    let env = environment("mcp-stdio");
    let mut first = Stdio::start(&env);
    let mut second = Stdio::start(&env);
    let made = first.call("create_sandbox", json!({"base": "quick", "wait_sec": 60}));
    assert_eq!(made["status"], "running", "{made}");
    let name = made["name"].clone();
    let run = |script: &str| json!({"name": name, "command": ["sh", "-c", script]});
    assert_eq!(second.call("exec", run("echo hi"))["stdout"], "hi\n");

    // A progress token returns progress, and a cancellation ends the command.
    let mut params = json!({"name": "exec", "arguments": run("sleep 1234.5")});
    params["_meta"] = json!({"progressToken": "p"});
    let id = second.send("tools/call", params);
    let reported = second.read();
    assert_eq!(reported["method"], "notifications/progress", "{reported}");
    assert_eq!(reported["params"]["progressToken"], "p");
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                           "params": {"requestId": id}});
    second.write(&cancelled.to_string());
    eventually("the command ends", || {
        let ran = second.call("exec", run("pgrep -f 'sleep 1234[.]5'"));
        ran["exit_code"] == 1
    });

    // When the client that runs the server exits, another client takes over.
    first.end();
    assert_eq!(second.call("exec", run("echo still"))["stdout"], "still\n");
    second.child.kill().unwrap();
    second.child.wait().unwrap();

    // A server on an address is found by later stdio clients.
    let server = McpServer::start(&env);
    let mut third = Stdio::start(&env);
    assert_eq!(third.call("exec", run("echo again"))["stdout"], "again\n");
    third.end();
    server
        .client()
        .call("destroy_sandbox", json!({"name": name}));
    assert_eq!(server.end(), 0);
}

#[test]
fn stdio_reports_invalid_messages() {
    let env = environment("mcp-noise");
    let mut client = Stdio::start(&env);
    for line in [
        "no json",
        "",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}",
    ] {
        client.write(line);
    }
    assert_eq!(client.read()["error"]["code"], -32700);
    let method = "x".repeat(16 << 20);
    let long = json!({"jsonrpc": "2.0", "id": 99, "method": method});
    client.write(&long.to_string());
    let refused = client.read();
    assert_eq!(refused["error"]["code"], -32600, "{refused}");
    assert!(refused["id"].is_null() && refused["error"]["message"].is_string());
    // The largest allowed file reaches the tool.
    let largest = "A".repeat((10 << 20) / 3 * 4);
    let file = json!({"name": "none", "path": "/a", "content": largest, "encoding": "base64"});
    let params = json!({"name": "write_file", "arguments": file});
    let id = client.send("tools/call", params);
    let reported = client.answer(id)["result"]["content"][0]["text"].to_string();
    assert!(reported.contains("no sandbox"), "{reported:.200}");
    let id = client.send("no/such/method", json!({}));
    assert!(client.answer(id)["error"].is_object());
    let id = client.send("tools/list", json!({}));
    let tools = client.answer(id);
    assert!(tools["result"]["tools"].as_array().unwrap().len() > 15);

    client.end();
}

#[test]
fn mcp_install_writes_client_configuration() {
    let env = TestEnv::bare();
    for (client, file, word) in [
        ("claude", ".claude.json", "mcpServers"),
        ("codex", ".codex/config.toml", "[mcp_servers.pixels]"),
        ("opencode", ".config/opencode/opencode.json", "\"local\""),
        ("cursor", ".cursor/mcp.json", "mcpServers"),
    ] {
        let install = |flags: &[&str]| {
            let command = ["mcp", "install", "--client", client];
            env.pixels([&command, flags].concat()).ok()
        };
        let shown = install(&[]).stdout;
        assert_eq!(install(&["--json"]).json()["text"], shown, "{client}");
        assert!(shown.contains(word) && shown.contains("--stdio"), "{shown}");
        assert!(!env.home().join(file).exists());
        let _ = install(&["--write"]);
        let written = std::fs::read_to_string(env.home().join(file)).unwrap();
        assert_eq!(written, shown);
        let again = install(&["--write"]).stdout;
        assert!(again.contains("already"), "{again}");
    }
    let http = env.pixels(["mcp", "install", "--http"]).ok().stdout;
    assert!(http.contains("http://127.0.0.1:8765/mcp"), "{http}");
}
