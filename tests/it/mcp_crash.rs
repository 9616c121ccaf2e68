//! A server killed at any moment: the next one continues, and its list equals
//! what the backend has.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::lab;
use crate::support::mcp::{McpServer, assert_fields, environment, on_lab, sandbox_prefix, text};
use crate::support::server::Server;
use crate::support::wait::{eventually, until};

#[test]
#[ignore = "needs Incus"]
fn restarted_server_adopts_sandboxes_and_jobs() {
    let (env, server, client) = on_lab("mcp-restart");
    let name = client.sandbox("quick");
    let job = client.job(&name, "echo begun; sleep 3; echo done");
    let begun = client.call("create_sandbox", json!({"base": "quick", "label": "begun"}));
    server.kill();

    // The state is lost as well: the pixels say whose they are.
    let state = env.home().join(".cache/pixels/mcp-state.json");
    std::fs::write(&state, "{ torn").unwrap();
    let server = McpServer::start(&env);
    let client = server.client();
    let begun = text(&begun["name"]);
    eventually("the sandbox is adopted", || {
        client.list().contains(&(name.clone(), "running".into()))
    });
    let end = until("the job ends", || {
        let poll = json!({"name": name, "job_id": job, "wait_sec": 5});
        let polled = client.try_call("exec_poll", poll)?.ok()?;
        (polled["state"] != "running").then_some(polled)
    });
    assert_fields(&end, json!({"exit_code": 0, "stdout": "begun\ndone\n"}));
    // What was only begun is either there and whole, or nowhere.
    eventually("nothing is half-made", || {
        let listed: BTreeSet<(String, String)> = client.list().into_iter().collect();
        let there = Server::shared().pixels(&sandbox_prefix(&env));
        listed
            .iter()
            .all(|(name, status)| status == "running" && there.contains(name))
            && there
                .iter()
                .all(|name| listed.iter().any(|(it, _)| it == name))
    });
    if client.list().iter().any(|(name, _)| *name == begun) {
        client.sh(&begun, "true");
    }

    // another client deletes a pixel: list_sandboxes reports it, and destroy_sandbox removes the record.
    let _ = env.pixels(["destroy", "--force", &name]).ok();
    assert!(client.list().contains(&(name.clone(), "failed".into())));
    client.call("destroy_sandbox", json!({"name": name}));
    assert!(client.list().iter().all(|(it, _)| *it != name));
}

#[test]
#[ignore = "needs Incus"]
fn idle_sandboxes_stop_and_expired_ones_are_destroyed() {
    lab::ready();
    let mut env = environment("mcp-idle");
    env.set("PIXELS_MCP_IDLE_STOP_AFTER", "3s")
        .set("PIXELS_MCP_REAP_INTERVAL", "200ms");
    let server = McpServer::start(&env);
    let client = server.client();
    let idle = client.sandbox("quick");
    let fork = json!({"name": idle, "wait_sec": 60, "ttl": "8s"});
    let busy = text(&client.call("fork_sandbox", fork)["name"]);
    client.job(&busy, "sleep 1000");
    eventually("the idle one is stopped", || {
        client.list().contains(&(idle.clone(), "stopped".into()))
    });
    // A long job is work, too; but a time to live is one.
    assert!(client.list().contains(&(busy.clone(), "running".into())));
    eventually("the old one is destroyed", || {
        client.list().iter().all(|(name, _)| *name != busy)
    });
    eventually("it is gone from the server", || {
        !Server::shared().pixels(&busy).contains(&busy)
    });
    client.call("start_sandbox", json!({"name": idle}));
    client.sh(&idle, "true");
}
