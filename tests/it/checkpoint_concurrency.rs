//! Concurrent commands that create, delete and restore checkpoints of one
//! pixel.

use std::sync::OnceLock;
use std::thread;

use serde_json::{Value, json};

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::proxy::{Fault, Proxy};

#[test]
#[ignore = "needs Incus"]
fn concurrent_default_labels_are_unique() {
    lab::ready();
    let env = TestEnv::new("seconds");
    let name = env.create("a");
    // At least two of these checkpoints are created in the same second.
    let args = ["checkpoint", "create", &name, "--json"];
    let several: Vec<_> = (0..6).map(|_| env.spawn(args)).collect();
    for one in several {
        let output = one.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
    }
    let all = env.pixels(["checkpoint", "list", &name, "--json"]).ok();
    assert_eq!(all.json().as_array().unwrap().len(), 6);
    // An explicit label never gets a suffix: the second command fails.
    let ready = ["checkpoint", "create", &name, "--label", "ready"];
    env.pixels(ready).ok();
    env.pixels(ready).expect(4);
}

#[test]
#[ignore = "needs Incus"]
fn concurrent_checkpoint_commands_succeed() {
    lab::ready();
    let env = TestEnv::new("atonce");
    let name = env.create("a");
    env.checkpoint(&name, "ready");
    thread::scope(|scope| {
        for own in ["one", "two", "three"] {
            let (env, name) = (&env, &name);
            scope.spawn(move || {
                for _ in 0..6 {
                    env.checkpoint(name, own);
                    env.pixels(["checkpoint", "delete", name, own]).ok();
                }
            });
        }
        for _ in 0..2 {
            env.pixels(["expire", &name, "5h"]).ok();
            env.pixels(["checkpoint", "restore", &name, "ready"]).ok();
        }
    });
    let left = env.pixels(["checkpoint", "list", &name, "--json"]).ok();
    let left = left.json().as_array().unwrap().len();
    assert_eq!(left, 1);
    env.pixels(["exec", &name, "--", "true"]).ok();
}

/// A restore on another machine is not blocked by a local lock.
#[test]
#[ignore = "needs Incus"]
fn checkpoint_create_waits_for_restore_of_other_client() {
    lab::ready();
    static PIXEL: OnceLock<String> = OnceLock::new();
    let proxy = Proxy::start();
    let env = proxy.env("elsewhere");
    let name = env.create("a");
    PIXEL.set(format!("/1.0/instances/px-{name}")).unwrap();
    let busy: fn(&mut Value) = |answer| {
        answer["metadata"] = json!({"running": [{
            "id": "none", "class": "task", "description": "Restoring snapshot",
            "status_code": 103, "resources": {"instances": [PIXEL.get()]},
        }]});
    };
    proxy
        .forget()
        .on("GET /1.0/operations?recursion=1*", 0, Fault::Change(busy));
    env.pixels(["checkpoint", "create", &name]).ok();
    assert!(proxy.heal());
    let seen = proxy.seen();
    let at = |pattern: &str| {
        seen.iter()
            .rposition(|request| request.starts_with(pattern))
    };
    let (asked, taken) = (at("GET /1.0/operations?"), at("POST "));
    let waited = at("GET /1.0/operations/none/wait");
    assert_ne!(waited, None, "{seen:#?}");
    assert!(waited < asked && asked < taken, "{seen:#?}");
}

/// The daemon deletes the checkpoint and then reports an error of a later step.
#[test]
#[ignore = "needs Incus"]
fn checkpoint_delete_failing_after_removal_succeeds() {
    lab::ready();
    let proxy = Proxy::start();
    let env = proxy.env("went");
    let name = env.create("a");
    env.checkpoint(&name, "old");
    let torn: fn(&mut Value) = |answer| {
        answer["metadata"]["status_code"] = 400.into();
        answer["metadata"]["err"] = "Instance snapshot record count doesn't match instance \
            snapshot volume record count"
            .into();
    };
    let wait = "GET /1.0/operations/*/wait*";
    proxy.forget().on(wait, 0, Fault::Change(torn));
    env.pixels(["checkpoint", "delete", &name, "old"]).ok();
    assert!(proxy.heal());
    env.pixels(["checkpoint", "delete", &name, "old"]).expect(3);
}
