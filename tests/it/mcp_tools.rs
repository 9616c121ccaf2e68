//! The MCP tools on a real daemon.

use serde_json::{Value, json};

use crate::support::mcp::{
    Client, McpServer, assert_fields, environment, initialize, on_lab, quick_base, text,
};
use crate::support::wait::{eventually, until};

#[test]
fn tool_schemas_are_complete() {
    let env = environment("mcp-schema");
    let server = McpServer::start(&env);
    let client = server.client();
    let result = |message: &Value| {
        let answer = client.message(message, &[]).unwrap();
        let mut answer: Value = serde_json::from_str(&answer.body).unwrap();
        answer["result"].take()
    };
    let hello = result(&initialize("2025-06-18"));
    assert_eq!(hello["serverInfo"]["name"], "pixels-mcp");
    assert!(text(&hello["instructions"]).contains("create_sandbox"));
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}});
    let list = result(&list);
    let tools = list["tools"].as_array().unwrap();
    let mut names: Vec<String> = tools.iter().map(|it| text(&it["name"])).collect();
    names.sort_unstable();
    let expected = [
        "checkpoint_sandbox",
        "create_sandbox",
        "delete_file",
        "destroy_sandbox",
        "edit_file",
        "exec",
        "exec_kill",
        "exec_poll",
        "exec_start",
        "fork_sandbox",
        "list_bases",
        "list_files",
        "list_sandboxes",
        "network_denials",
        "read_file",
        "restore_sandbox",
        "start_sandbox",
        "stop_sandbox",
        "write_file",
    ];
    assert_eq!(names, expected);
    for tool in tools {
        let name = &tool["name"];
        assert!(tool["description"].as_str().unwrap().len() > 20, "{name}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{name}");
        assert!(tool["annotations"]["readOnlyHint"].is_boolean(), "{name}");
        let fields = tool["inputSchema"]["properties"].as_object();
        for (field, schema) in fields.into_iter().flatten() {
            let described = schema["description"].is_string();
            assert!(described, "{name}: {field} has no description");
        }
    }
    assert_eq!(server.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn invalid_arguments_create_no_sandbox() {
    let (_env, server, client) = on_lab("mcp-refused");
    for (tool, arguments, part) in [
        (
            "exec",
            json!({"name": "none", "command": ["true"]}),
            "list_sandboxes",
        ),
        (
            "create_sandbox",
            json!({"base": "none"}),
            "configured bases: dev, node, python, quick",
        ),
        (
            "create_sandbox",
            json!({"base": "dev", "image": "x"}),
            "either",
        ),
    ] {
        let refusal = client.refused(tool, arguments);
        assert!(refusal.contains(part), "{refusal}");
    }
    for bad in [
        json!({"ttl": "soon"}),
        json!({"memory": "much"}),
        json!({"cpu": "two"}),
        json!({"egress": "open"}),
        json!({"egress": "agent", "allow": ["a b"]}),
        json!({"color": "red"}),
    ] {
        client.refused("create_sandbox", bad);
    }
    assert_eq!(client.list(), []);
    assert_eq!(server.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn tools_support_sandbox_lifecycle() {
    let (env, server, client) = on_lab("mcp-life");
    let arguments = json!({"base": "quick", "label": "mine", "ttl": "1h", "memory": "256",
                      "egress": "allowlist", "allow": ["allowed.example"], "wait_sec": 60});
    let made = client.call("create_sandbox", arguments);
    let running = json!({"status": "running", "egress": "allowlist"});
    assert_fields(&made, running.clone());
    let name = text(&made["name"]);
    let shown = env.pixels(["network", "show", &name, "--json"]).ok().json();
    assert_eq!(shown["mode"], "allowlist", "{shown}");

    // The boot that is in progress does not delete files.
    let script = "echo early >/tmp/early; until systemctl is-active -q sysinit.target; do sleep 0.1; done; \
                  sleep 0.2; cat /tmp/early";
    assert_eq!(client.sh(&name, script), "early\n");
    commands(&client, &name);
    files(&client, &name);
    jobs(&client, &name);

    client.sh(&name, "getent hosts denied.example || true");
    eventually("the refused name is reported", || {
        let reported = client.call("network_denials", json!({"name": name}));
        reported.to_string().contains("denied.example")
    });

    client.sh(&name, "echo before >$HOME/state; sync");
    let taken = client.call("checkpoint_sandbox", json!({"name": name, "label": "good"}));
    assert_eq!(taken["checkpoints"], json!(["good"]));
    client.sh(&name, "echo after >$HOME/state");
    let fork = json!({"name": name, "checkpoint": "good", "wait_sec": 60});
    let fork = client.call("fork_sandbox", fork);
    assert_fields(&fork, running);
    let twin = text(&fork["name"]);
    // A fork without its own ttl does not inherit the expiry of its source.
    let end = |view: &Value| text(&view["expires_at"]);
    assert!(end(&fork) > end(&made), "{fork} {made}");
    assert_eq!(client.sh(&twin, "cat $HOME/state"), "before\n");
    let missing = client.refused("fork_sandbox", json!({"name": name, "checkpoint": "bad"}));
    assert!(missing.contains("it has: good"), "{missing}");
    let missing = client.refused("restore_sandbox", json!({"name": name, "label": "bad"}));
    assert!(missing.contains("it has: good"), "{missing}");
    client.call("restore_sandbox", json!({"name": name, "label": "good"}));
    assert_eq!(client.sh(&name, "cat $HOME/state"), "before\n");

    client.call("stop_sandbox", json!({"name": name}));
    let refusal = client.refused("exec", json!({"name": name, "command": ["true"]}));
    assert!(refusal.contains("start_sandbox"), "{refusal}");
    client.call("start_sandbox", json!({"name": format!("px-{name}")}));
    assert_eq!(client.sh(&name, "cat $HOME/state"), "before\n");
    for one in [&name, &twin] {
        client.call("destroy_sandbox", json!({"name": one}));
    }
    assert_eq!(client.list(), []);
    assert_eq!(env.remaining(), [quick_base(&env)]);
    assert_eq!(server.end(), 0);
}

fn commands(client: &Client, name: &str) {
    let script = "cat; echo \"$A\" >&2; pwd; exit 3";
    let arguments = json!({"name": name, "command": ["sh", "-c", script], "stdin": "in\n",
                           "env": {"A": "a  b"}, "cwd": "/var"});
    assert_fields(
        &client.call("exec", arguments),
        json!({"exit_code": 3, "stdout": "in\n/var\n", "stderr": "a  b\n"}),
    );
    let ran = client.exec(name, &["printf", "%s|", "", "a b", "*", "$HOME", "-x"]);
    assert_eq!(ran["stdout"], "|a b|*|$HOME|-x|");
    let ran = client.exec(name, &["seq", "1", "100000"]);
    let long = text(&ran["stdout"]);
    assert!(long.starts_with("1\n2\n") && long.ends_with("99999\n100000\n"));
    assert!(long.contains("bytes left out here") && long.len() < 70_000);
    let facts = json!({"stdout_truncated": true, "stdout_bytes": 588_895});
    assert_fields(&ran, facts);
    let slow = json!({"name": name, "command": ["sleep", "60"], "timeout_sec": 1});
    let slow = client.call("exec", slow);
    assert_fields(&slow, json!({"exit_code": 124, "timed_out": true}));
    let own = client.exec(name, &["sh", "-c", "exit 124"]);
    assert_fields(&own, json!({"exit_code": 124, "timed_out": false}));
    let missing = client.exec(name, &["no-such-program"]);
    assert_eq!(missing["exit_code"], 127);
    let line = client.refused("exec", json!({"name": name, "command": "ls -la"}));
    assert!(line.contains("[\"ls\", \"-l\"]"), "{line}");
    for bad in [json!([]), json!([""]), json!(["a\u{0}b"])] {
        client.refused("exec", json!({"name": name, "command": bad}));
    }
    let bad_name = json!({"name": name, "command": ["true"], "env": {"-i": "x"}});
    client.refused("exec", bad_name);
}

fn files(client: &Client, name: &str) {
    let home = client.sh(name, "printf %s $HOME");
    let at = |file: &str| format!("{home}/{file}");
    // Calls a tool with `path` and more arguments.
    let arguments = |path: &str, mut more: Value| {
        more["name"] = json!(name);
        more["path"] = json!(path);
        more
    };
    let call = |tool: &str, path: &str, more| client.call(tool, arguments(path, more));
    let refused = |tool: &str, path: &str, more| client.refused(tool, arguments(path, more));
    let path = at("new/folder/a.sh");
    let content = json!({"content": "one two two\n", "mode": "0750"});
    call("write_file", &path, content);
    let edit = json!({"old_string": "two", "new_string": "2"});
    let refusal = refused("edit_file", &path, edit);
    assert!(refusal.contains("2 times"), "{refusal}");
    client.sh(name, &format!("chown 1234:4321 {path}"));
    client.sh(name, &format!("ln -s {path} {home}/link"));
    let edit = json!({"old_string": "two", "new_string": "2", "replace_all": true});
    assert_eq!(call("edit_file", &at("link"), edit)["replacements"], 2);
    let seen = client.sh(name, &format!("stat -c '%a %u %g' {path}; cat {path}"));
    assert_eq!(seen, "750 1234 4321\none 2 2\n");
    // Overwriting a file keeps its owner and mode.
    call("write_file", &path, json!({"content": "x"}));
    let seen = client.sh(name, &format!("stat -c '%a %u' {path}"));
    assert_eq!(seen, "750 1234\n");

    let binary = json!({"content": "/wCA", "encoding": "base64"});
    let written = call("write_file", &at("binary"), binary.clone());
    assert_eq!(written["bytes_written"], 3);
    assert_fields(&call("read_file", &at("binary"), json!({})), binary);
    let whole = call("read_file", &path, json!({"max_bytes": 0}));
    assert_eq!(whole["truncated"], false);
    client.sh(name, &format!("seq 1 1000 >{home}/long"));
    assert_fields(
        &call("read_file", &at("long"), json!({"max_bytes": 4})),
        json!({"content": "1\n2\n", "truncated": true, "size": 3893}),
    );
    // JSON encodes a control character with six characters.
    let script = format!("head -c 5000000 /dev/zero | tr '\\0' '\\1' >{home}/controls");
    client.sh(name, &script);
    let refusal = refused(
        "read_file",
        &at("controls"),
        json!({"max_bytes": 5_000_000}),
    );
    assert!(refusal.contains("larger than 20 MiB"), "{refusal}");

    client.sh(name, &format!("mkdir {home}/odd; cd {home}/odd; touch 'a\tb' 'c\nd' -- -delete \"$(printf 'e\\377')\"; ln -s /etc/passwd l"));
    let list = call("list_files", &at("odd"), json!({}));
    let entries = list["entries"].as_array().unwrap();
    let paths: Vec<String> = entries.iter().map(|it| text(&it["path"])).collect();
    let expected = ["-delete", "a\tb", "c\nd", "e\u{fffd}", "l"].map(|it| at(&format!("odd/{it}")));
    assert_eq!(paths, expected);
    assert!(entries[3]["path_base64"].is_string());
    assert_eq!(entries[4]["target"], "/etc/passwd");
    let list = call("list_files", &home, json!({"recursive": true}));
    assert!(list.to_string().contains("new/folder/a.sh"));

    for bad in [
        "relative",
        "-delete",
        "/etc/../etc/passwd",
        "/dev/zero",
        "/etc",
        "/no/such",
    ] {
        refused("read_file", bad, json!({}));
    }
    call("delete_file", &at("link"), json!({}));
    client.sh(name, &format!("test ! -e {home}/link && test -e {path}"));
    refused("delete_file", &at("odd"), json!({}));
}

fn jobs(client: &Client, name: &str) {
    let script = "echo out; echo err >&2; sleep 0.5; echo end; exit 9";
    let mut poll = json!({"name": name, "job_id": client.job(name, script), "wait_sec": 5});
    let mut seen = (String::new(), String::new());
    let end = until("the job ends", || {
        let polled = client.call("exec_poll", poll.clone());
        seen.0.push_str(&text(&polled["stdout"]));
        seen.1.push_str(&text(&polled["stderr"]));
        for offset in ["stdout_offset", "stderr_offset"] {
            poll[offset] = polled[offset].clone();
        }
        (polled["state"] != "running").then_some(polled)
    });
    assert_fields(&end, json!({"state": "exited", "exit_code": 9}));
    assert_eq!(seen, ("out\nend\n".to_owned(), "err\n".to_owned()));

    let job = client.job(name, "sleep 1111 & sleep 1111");
    let killed = client.call("exec_kill", json!({"name": name, "job_id": job}));
    assert_eq!(killed["state"], "killed");
    client.sh(name, "! pgrep -f 'sleep 111[1]'");
    for bad in ["job-00000000", "../../etc"] {
        client.refused("exec_poll", json!({"name": name, "job_id": bad}));
    }
}
