//! The tools on the real daemon, as a client sees them.

use serde_json::{Value, json};

use crate::support::lab;
use crate::support::mcp::{Client, McpServer, environment};
use crate::support::wait::until;

#[test]
fn tool_schemas_are_complete() {
    let env = environment("mcp-schema");
    let server = McpServer::start(&env);
    let client = server.client();
    let message = |id: u32, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    let about = json!({"protocolVersion": "2025-06-18", "capabilities": {},
                       "clientInfo": {"name": "test", "version": "1"}});
    let hello = client
        .message(&message(1, "initialize", about), &[])
        .unwrap();
    let hello: Value = serde_json::from_str(&hello.body).unwrap();
    assert_eq!(hello["result"]["serverInfo"]["name"], "pixels-mcp");
    assert!(
        hello["result"]["instructions"]
            .as_str()
            .unwrap()
            .contains("create_sandbox")
    );
    let list = client
        .message(&message(2, "tools/list", json!({})), &[])
        .unwrap();
    let list: Value = serde_json::from_str(&list.body).unwrap();
    let tools = list["result"]["tools"].as_array().unwrap();
    let mut names: Vec<&str> = tools
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
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
    lab::ready();
    let env = environment("mcp-refused");
    let server = McpServer::start(&env);
    let client = server.client();
    let refusal = client.refused("exec", json!({"name": "none", "command": ["true"]}));
    assert!(refusal.contains("list_sandboxes"), "{refusal}");
    let refusal = client.refused("create_sandbox", json!({"base": "none"}));
    assert!(
        refusal.contains("configured bases: dev, node, python, quick"),
        "{refusal}"
    );
    let refusal = client.refused("create_sandbox", json!({"base": "dev", "image": "x"}));
    assert!(refusal.contains("either"), "{refusal}");
    for bad in [
        json!({"ttl": "soon"}),
        json!({"memory": "much"}),
        json!({"cpu": "two"}),
        json!({"egress": "open"}),
        json!({"egress": "agent", "allow": ["a b"]}),
        json!({"color": "red"}),
    ] {
        let _ = client.refused("create_sandbox", bad);
    }
    assert_eq!(client.list(), []);
    assert_eq!(server.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn tools_support_sandbox_lifecycle() {
    lab::ready();
    let env = environment("mcp-life");
    let server = McpServer::start(&env);
    let client = server.client();
    let arguments = json!({"base": "quick", "label": "mine", "ttl": "1h", "memory": "256",
                      "egress": "allowlist", "allow": ["allowed.example"], "wait_sec": 60});
    let made = client.call("create_sandbox", arguments);
    assert_eq!(
        (&made["status"], &made["egress"]),
        (&json!("running"), &json!("allowlist"))
    );
    let name = made["name"].as_str().unwrap().to_owned();
    let shown = env.pixels(["network", "show", &name, "--json"]).ok().json();
    assert_eq!(shown["mode"], "allowlist", "{shown}");

    // The boot in progress removes nothing.
    let script = "echo early >/tmp/early; until systemctl is-active -q sysinit.target; do sleep 0.1; done; \
                  sleep 0.2; cat /tmp/early";
    assert_eq!(client.sh(&name, script), "early\n");
    commands(&client, &name);
    files(&client, &name);
    jobs(&client, &name);

    let denied = "getent hosts denied.example || true";
    client.sh(&name, denied);
    until("the refused name is reported", || {
        let reported = client.call("network_denials", json!({"name": name}));
        reported
            .to_string()
            .contains("denied.example")
            .then_some(())
    });

    client.sh(&name, "echo before >$HOME/state; sync");
    let taken = client.call("checkpoint_sandbox", json!({"name": name, "label": "good"}));
    assert_eq!(taken["checkpoints"], json!(["good"]));
    client.sh(&name, "echo after >$HOME/state");
    let fork = json!({"name": name, "checkpoint": "good", "wait_sec": 60});
    let fork = client.call("fork_sandbox", fork);
    assert_eq!(
        (&fork["status"], &fork["egress"]),
        (&json!("running"), &json!("allowlist"))
    );
    let twin = fork["name"].as_str().unwrap().to_owned();
    // It was given no time of its own, and takes over none.
    let end = |view: &Value| view["expires_at"].as_str().unwrap().to_owned();
    assert!(end(&fork) > end(&made), "{fork} {made}");
    assert_eq!(client.sh(&twin, "cat $HOME/state"), "before\n");
    let missing = client.refused("fork_sandbox", json!({"name": name, "checkpoint": "bad"}));
    assert!(missing.contains("it has: good"), "{missing}");
    let missing = json!({"name": name, "label": "bad"});
    let refused = client.refused("restore_sandbox", missing);
    assert!(refused.contains("it has: good"), "{refused}");
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
    assert_eq!(env.remaining(), [format!("{}-quick", env.name("b"))]);
    assert_eq!(server.end(), 0);
}

fn commands(client: &Client, name: &str) {
    let script = "cat; echo \"$A\" >&2; pwd; exit 3";
    let ran = client.call(
        "exec",
        json!({"name": name, "command": ["sh", "-c", script], "stdin": "in\n",
               "env": {"A": "a  b"}, "cwd": "/var"}),
    );
    let facts = (&ran["exit_code"], &ran["stdout"], &ran["stderr"]);
    assert_eq!(facts, (&json!(3), &json!("in\n/var\n"), &json!("a  b\n")));
    let exact = ["printf", "%s|", "", "a b", "*", "$HOME", "-x"];
    let ran = client.call("exec", json!({"name": name, "command": exact}));
    assert_eq!(ran["stdout"], "|a b|*|$HOME|-x|");
    let ran = client.call(
        "exec",
        json!({"name": name, "command": ["seq", "1", "100000"]}),
    );
    let text = ran["stdout"].as_str().unwrap();
    assert!(text.starts_with("1\n2\n") && text.ends_with("99999\n100000\n"));
    assert!(text.contains("bytes left out here") && text.len() < 70_000);
    assert_eq!(
        (&ran["stdout_truncated"], &ran["stdout_bytes"]),
        (&json!(true), &json!(588_895))
    );
    let slow = json!({"name": name, "command": ["sleep", "60"], "timeout_sec": 1});
    let ran = client.call("exec", slow);
    assert_eq!(
        (&ran["exit_code"], &ran["timed_out"]),
        (&json!(124), &json!(true))
    );
    let own = json!({"name": name, "command": ["sh", "-c", "exit 124"]});
    let ran = client.call("exec", own);
    assert_eq!(
        (&ran["exit_code"], &ran["timed_out"]),
        (&json!(124), &json!(false))
    );
    let ran = client.call(
        "exec",
        json!({"name": name, "command": ["no-such-program"]}),
    );
    assert_eq!(ran["exit_code"], 127);
    let line = client.refused("exec", json!({"name": name, "command": "ls -la"}));
    assert!(line.contains("[\"ls\", \"-l\"]"), "{line}");
    for bad in [json!([]), json!([""]), json!(["a\u{0}b"])] {
        let _ = client.refused("exec", json!({"name": name, "command": bad}));
    }
    let env = json!({"-i": "x"});
    let _ = client.refused(
        "exec",
        json!({"name": name, "command": ["true"], "env": env}),
    );
}

fn files(client: &Client, name: &str) {
    let home = client.sh(name, "printf %s $HOME");
    let at = |file: &str| format!("{home}/{file}");
    let path = at("new/folder/a.sh");
    client.call(
        "write_file",
        json!({"name": name, "path": path, "content": "one two two\n", "mode": "0750"}),
    );
    let refusal = client.refused(
        "edit_file",
        json!({"name": name, "path": path, "old_string": "two", "new_string": "2"}),
    );
    assert!(refusal.contains("2 times"), "{refusal}");
    client.sh(name, &format!("chown 1234:4321 {path}"));
    client.sh(name, &format!("ln -s {path} {home}/link"));
    let edit = json!({"name": name, "path": at("link"), "old_string": "two",
                      "new_string": "2", "replace_all": true});
    assert_eq!(client.call("edit_file", edit)["replacements"], 2);
    let seen = client.sh(name, &format!("stat -c '%a %u %g' {path}; cat {path}"));
    assert_eq!(seen, "750 1234 4321\none 2 2\n");
    // Overwritten, a file is still whose it was and what it was.
    client.call(
        "write_file",
        json!({"name": name, "path": path, "content": "x"}),
    );
    assert_eq!(
        client.sh(name, &format!("stat -c '%a %u' {path}")),
        "750 1234\n"
    );

    let binary =
        json!({"name": name, "path": at("binary"), "content": "/wCA", "encoding": "base64"});
    assert_eq!(client.call("write_file", binary)["bytes_written"], 3);
    let read = client.call("read_file", json!({"name": name, "path": at("binary")}));
    assert_eq!(
        (&read["content"], &read["encoding"]),
        (&json!("/wCA"), &json!("base64"))
    );
    let cut = client.call(
        "read_file",
        json!({"name": name, "path": path, "max_bytes": 0}),
    );
    assert_eq!(cut["truncated"], false);
    client.sh(name, &format!("seq 1 1000 >{home}/long"));
    let cut = client.call(
        "read_file",
        json!({"name": name, "path": at("long"), "max_bytes": 4}),
    );
    assert_eq!(cut["content"], "1\n2\n");
    assert_eq!(
        (&cut["truncated"], &cut["size"]),
        (&json!(true), &json!(3893))
    );

    client.sh(name, &format!("mkdir {home}/odd; cd {home}/odd; touch 'a\tb' 'c\nd' -- -delete \"$(printf 'e\\377')\"; ln -s /etc/passwd l"));
    let list = client.call("list_files", json!({"name": name, "path": at("odd")}));
    let entries = list["entries"].as_array().unwrap();
    let paths: Vec<&str> = entries
        .iter()
        .map(|it| it["path"].as_str().unwrap())
        .collect();
    let expected = ["-delete", "a\tb", "c\nd", "e\u{fffd}", "l"].map(|it| at(&format!("odd/{it}")));
    assert_eq!(paths, expected);
    assert!(entries[3]["path_base64"].is_string());
    assert_eq!(entries[4]["target"], "/etc/passwd");
    let list = client.call(
        "list_files",
        json!({"name": name, "path": home, "recursive": true}),
    );
    assert!(list.to_string().contains("new/folder/a.sh"));

    for bad in [
        "relative",
        "-delete",
        "/etc/../etc/passwd",
        "/dev/zero",
        "/etc",
        "/no/such",
    ] {
        let _ = client.refused("read_file", json!({"name": name, "path": bad}));
    }
    client.call("delete_file", json!({"name": name, "path": at("link")}));
    client.sh(name, &format!("test ! -e {home}/link && test -e {path}"));
    let _ = client.refused("delete_file", json!({"name": name, "path": at("odd")}));
}

fn jobs(client: &Client, name: &str) {
    let script = "echo out; echo err >&2; sleep 0.5; echo end; exit 9";
    let started = client.call(
        "exec_start",
        json!({"name": name, "command": ["sh", "-c", script]}),
    );
    let job = started["job_id"].as_str().unwrap().to_owned();
    let mut seen = (String::new(), String::new());
    let mut offsets = (json!(0), json!(0));
    let end = until("the job ends", || {
        let polled = client.call(
            "exec_poll",
            json!({"name": name, "job_id": job, "stdout_offset": offsets.0,
                   "stderr_offset": offsets.1, "wait_sec": 5}),
        );
        seen.0.push_str(polled["stdout"].as_str().unwrap());
        seen.1.push_str(polled["stderr"].as_str().unwrap());
        offsets = (
            polled["stdout_offset"].clone(),
            polled["stderr_offset"].clone(),
        );
        (polled["state"] != "running").then_some(polled)
    });
    assert_eq!(
        (&end["state"], &end["exit_code"]),
        (&json!("exited"), &json!(9))
    );
    assert_eq!(seen, ("out\nend\n".to_owned(), "err\n".to_owned()));

    let script = "sleep 1111 & sleep 1111";
    let started = client.call(
        "exec_start",
        json!({"name": name, "command": ["sh", "-c", script]}),
    );
    let job = &started["job_id"];
    let killed = client.call("exec_kill", json!({"name": name, "job_id": job}));
    assert_eq!(killed["state"], "killed");
    client.sh(name, "! pgrep -f 'sleep 111[1]'");
    let _ = client.refused("exec_poll", json!({"name": name, "job_id": "job-00000000"}));
    let _ = client.refused("exec_poll", json!({"name": name, "job_id": "../../etc"}));
}
