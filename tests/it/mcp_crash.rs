//! A server killed at random moments: the next server continues, and its list
//! matches the pixels on the backend.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::lab;
use crate::support::mcp::{McpServer, assert_fields, environment, on_lab, sandbox_prefix, text};
use crate::support::proxy::{Fault, Proxy};
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

    // The state file is damaged too; properties of pixels name their server.
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
    // An unfinished sandbox is either complete or deleted.
    eventually("no sandbox is incomplete", || {
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

    // After a deletion by another client, the sandbox is listed as failed.
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
    eventually("the idle sandbox is stopped", || {
        client.list().contains(&(idle.clone(), "stopped".into()))
    });
    // A running job prevents the idle stop but not the expiry.
    assert!(client.list().contains(&(busy.clone(), "running".into())));
    eventually("the expired sandbox is destroyed", || {
        client.list().iter().all(|(name, _)| *name != busy)
    });
    eventually("its pixel is deleted", || {
        !Server::shared().pixels(&busy).contains(&busy)
    });
    client.call("start_sandbox", json!({"name": idle}));
    client.sh(&idle, "true");
}

/// The server is killed when the disk and the policy of the checkpoint are restored,
/// and the narrower policy of the sandbox is not.
#[test]
#[ignore = "needs Incus"]
fn restore_of_killed_server_keeps_narrower_policy() {
    lab::ready();
    let restored_again = ["start_sandbox", "restore_sandbox"];
    for (placement, calls) in [
        ("auto", &restored_again[..]),
        ("pixel", &restored_again[..1]),
    ] {
        let proxy = Proxy::start();
        let mut env = environment(&format!("mcp-cut-{placement}"));
        env.set("PIXELS_NETWORK_PLACEMENT", placement)
            .set("PIXELS_NETWORK_EGRESS", "allowlist")
            .set("PIXELS_INCUS_SOCKET", proxy.socket().to_str().unwrap());
        env.config(
            "[mcp.bases.quick]\nparent_image = \"ubuntu/24.04\"\n\
             [network]\nallow = [\"one.test\", \"two.test\"]\n",
        );
        let mut server = McpServer::start(&env);
        let name = server.client().sandbox("quick");
        let early = json!({"name": name, "label": "early"});
        let _ = server.client().call("checkpoint_sandbox", early.clone());
        env.pixels(["network", "deny", &name, "two.test"]).ok();
        let allowed = || {
            let found = Server::shared().get(&format!("/1.0/instances/px-{name}"));
            let policy = found["config"]["user.pixels.egress"].as_str();
            policy.unwrap().contains("two.test")
        };
        let change = format!("PATCH /1.0/instances/px-{name}*");
        for next in calls {
            assert!(!allowed());
            proxy.forget().on(&change, 0, Fault::Stall);
            let client = server.client();
            std::thread::scope(|scope| {
                scope.spawn(|| client.try_call("restore_sandbox", early.clone()));
                eventually("the policy of the checkpoint is recorded", || {
                    proxy.saw(&change) && allowed()
                });
                server.kill();
            });
            assert!(proxy.heal());
            server = McpServer::start(&env);
            let client = server.client();
            if *next == "restore_sandbox" {
                client.call(next, early.clone());
            }
            client.call("start_sandbox", json!({"name": name}));
            assert!(!allowed(), "{placement} {next}");
            client.sh(&name, "true");
        }
        if placement == "pixel" {
            let names = env.sh(&name, "cat /var/lib/pixels/egress/resolver");
            assert!(names.contains("/one.test/"), "{names}");
            assert!(!names.contains("two.test"), "{names}");
        }
    }
}
