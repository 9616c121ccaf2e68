//! Clients that cancel calls or disconnect: the work ends and leaves nothing
//! incomplete.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::lab;
use crate::support::mcp::{Client, McpServer, environment, initialize, on_lab, sandbox_prefix};
use crate::support::rounds::Moments;
use crate::support::server::Server;
use crate::support::wait::{eventually, until};

/// Sends a call. Dropping the returned stream disconnects.
fn begin(client: &Client, session: Option<&str>, params: &Value) -> TcpStream {
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let session = session.map(|session| ("Mcp-Session-Id", session));
    let stream = client.begin_message(&message, session.as_slice());
    stream.unwrap()
}

fn call(tool: &str, arguments: Value) -> Value {
    json!({"name": tool, "arguments": arguments})
}

/// Starts a session and returns its id.
fn session(client: &Client) -> String {
    let hello = initialize("2025-11-25");
    let head = client.message(&hello, &[]).unwrap().head;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(name, _)| name.eq_ignore_ascii_case("mcp-session-id"));
    found.unwrap().1.to_owned()
}

fn give_up(client: &Client, session: &str) {
    let word = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                      "params": {"requestId": 7}});
    let reported = client.message(&word, &[("Mcp-Session-Id", session)]);
    assert_eq!(reported.unwrap().status, 202);
}

/// The number of processes with this command line.
fn count(client: &Client, sandbox: &str, seconds: &str) -> usize {
    let script = format!("pgrep -cxf 'sleep {seconds}' || true");
    client.sh(sandbox, &script).trim().parse().unwrap()
}

#[test]
#[ignore = "needs Incus"]
fn canceled_exec_kills_command() {
    let (_env, server, client) = on_lab("mcp-gone");
    let name = client.sandbox("quick");
    let sleep = |seconds: &str| {
        let command = ["sh", "-c", &format!("sleep {seconds} & sleep {seconds}")];
        call("exec", json!({"name": name, "command": command}))
    };
    let runs = |seconds: &str| {
        eventually("command runs", || count(&client, &name, seconds) == 2);
    };
    let ends = |seconds: &str| {
        eventually("command ends", || count(&client, &name, seconds) == 0);
    };
    let hung_up = begin(&client, None, &sleep("1001"));
    runs("1001");
    drop(hung_up);
    ends("1001");

    // A call with a progress token is answered by an event stream.
    let mut reported = sleep("1002");
    reported["_meta"] = json!({"progressToken": "p"});
    let mut stream = begin(&client, None, &reported);
    let mut start = [0; 15];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    runs("1002");
    drop(stream);
    ends("1002");

    let (mine, other) = (session(&client), session(&client));
    assert_ne!(mine, other);
    reported["arguments"] = sleep("1003")["arguments"].clone();
    for (params, seconds) in [(reported, "1003"), (sleep("1004"), "1004")] {
        let mut stream = begin(&client, Some(&mine), &params);
        runs(seconds);
        // A cancellation in another session has no effect.
        give_up(&client, &other);
        assert_eq!(count(&client, &name, seconds), 2);
        give_up(&client, &mine);
        ends(seconds);
        // A canceled call gets no answer.
        client.sh(&name, "true");
        let mut answer = [0; 8192];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(!answer.contains("exit_code"), "{answer}");
    }
    assert_eq!(server.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn canceled_create_sandbox_leaves_no_sandbox() {
    lab::ready();
    let mut env = environment("mcp-unbuilt");
    let script = |name: &str, text: &str| {
        let path = env.home().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        path.display().to_string()
    };
    let until_told = script(
        "until-reported.sh",
        "until [ -e /var/go ]; do sleep 0.1; done",
    );
    let endless = script("endless.sh", "sleep infinity");
    env.config(&format!(
        "[provision]\ndevtools = false\nscript = \"{endless}\"\n\
         [mcp.bases.slow]\nparent_image = \"ubuntu/24.04\"\nsetup_script = \"{until_told}\"\n"
    ));
    let sandboxes = sandbox_prefix(&env);
    let there = || Server::shared().pixels(&sandboxes);

    // Canceled while waiting for the base. The build continues, so that a later
    // retry succeeds.
    let server = McpServer::start(&env);
    let client = server.client();
    let slow = call("create_sandbox", json!({"base": "slow", "wait_sec": 600}));
    let hung_up = begin(&client, None, &slow);
    let work = format!("{}-slow-building", env.name("b"));
    let at_work = ["exec", &work, "--", "pgrep", "base-setup"];
    eventually("the base build runs", || env.pixels(at_work).code == 0);
    assert_eq!(client.list().len(), 1);
    drop(hung_up);
    eventually("the sandbox is removed", || client.list().is_empty());
    let _ = env.pixels(["exec", &work, "--", "touch", "/var/go"]).ok();
    eventually("only the finished base exists", || {
        Server::shared().pixels(&env.name("b")) == [format!("{}-slow", env.name("b"))]
    });
    assert_eq!(there(), Vec::<String>::new());
    assert_eq!(server.end(), 0);

    // Canceled while the pixel runs and provisioning never ends.
    env.set("PIXELS_PROVISION_ENABLED", "true");
    let server = McpServer::start(&env);
    let client = server.client();
    let (mine, arguments) = (session(&client), json!({"wait_sec": 600}));
    let arguments = call("create_sandbox", arguments);
    for gives_up in [false, true] {
        let stream = begin(&client, Some(&mine), &arguments);
        eventually("the pixel exists", || !there().is_empty());
        match gives_up {
            true => give_up(&client, &mine),
            false => drop(stream),
        }
        eventually("the pixel is deleted", || {
            client.list().is_empty() && there().is_empty()
        });
    }
    // A finished sandbox is kept.
    let name = client.sandbox("slow");
    assert_eq!(client.list(), [(name, "running".to_owned())]);
    assert_eq!(server.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn canceled_write_file_leaves_old_or_new_file() {
    let (_env, server, client) = on_lab("mcp-torn");
    let name = client.sandbox("quick");
    let mut moments = Moments::new();
    let file = |content: &str| json!({"name": name, "path": "/srv/f/a", "content": content});
    client.call("write_file", file("old"));
    // Prints every size that the file has.
    let script = "while [ ! -e /srv/over ]; do stat -c %s /srv/f/a; done | sort -nu";
    let watch = client.job(&name, script);
    let new = "n".repeat(8 << 20);
    for _ in 0..6 {
        let stream = begin(&client, None, &call("write_file", file(&new)));
        std::thread::sleep(moments.within(Duration::from_millis(300)));
        drop(stream);
        client.call("write_file", file("old"));
    }
    // Writes without a cancellation.
    client.call("write_file", file(&new));
    client.sh(&name, "stat -c %s /srv/f/a; touch /srv/over");
    let seen = until("the watch ends", || {
        let job = json!({"name": name, "job_id": watch, "wait_sec": 10});
        let polled = client.call("exec_poll", job);
        (polled["state"] == "exited").then_some(polled)
    });
    assert_eq!(seen["stdout"], "3\n8388608\n", "{seen}");

    // An incomplete request has no effect.
    let mut other = file(&new[..1 << 20]);
    other["path"] = json!("/srv/f/b");
    let part = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                      "params": call("write_file", other)});
    drop(client.begin_message(&part, &[("Content-Length", "9000000")]));
    eventually("no other file is left", || {
        client.sh(&name, "ls -A /srv/f") == "a\n"
    });
    assert_eq!(server.end(), 0);
}
