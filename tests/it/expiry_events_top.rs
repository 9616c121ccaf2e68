//! Expiry, events and resource usage of pixels on a real daemon.

use std::io::{BufRead, BufReader};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::env::TestEnv;
use crate::support::server::Server;
use crate::support::{lab, wait};

/// Sets the expiry of a pixel to a time in the past.
fn overdue(name: &str) {
    let path = format!("/1.0/instances/px-{name}");
    let config = json!({"config": {"user.pixels.expires-at": "2020-01-01T00:00:00Z"}});
    Server::shared().done("PATCH", &path, &config);
}

#[test]
#[ignore = "needs Incus"]
fn expired_pixels_are_deleted() {
    lab::ready();
    let env = TestEnv::new("ttl");
    let (base, clone, timed) = (env.name("base"), env.name("clone"), env.name("timed"));
    env.pixels(["create", &base, "--ttl", "2h"]).ok();
    let end = env.listed(&base)["expires_at"].clone();
    assert!(end.as_str().unwrap().ends_with('Z'), "{end}");
    let table = env.pixels(["list"]).ok().stdout;
    let line = table.lines().find(|line| line.contains(&base)).unwrap();
    let left = ["expires in 2h 0m", "expires in 1h 59m"];
    assert!(left.iter().any(|left| line.contains(left)), "{line}");

    // A clone has its own expiry or none.
    env.pixels(["create", &clone, "--from", &base]).ok();
    assert_eq!(env.listed(&clone)["expires_at"], Value::Null);
    let args = ["fork", &base, "--prefix", &timed, "--ttl", "7d"];
    env.pixels(args).ok();
    let timed = format!("{timed}-1");
    assert!(env.listed(&timed)["expires_at"].is_string());

    // A clone of a checkpoint does not inherit the expiry either.
    env.checkpoint(&base, "zero");
    let (zero, from) = (env.name("zero"), format!("{base}:zero"));
    env.pixels(["create", &zero, "--from", &from]).ok();
    assert_eq!(env.listed(&zero)["expires_at"], Value::Null);

    // A restore does not change the expiry.
    env.checkpoint(&base, "one");
    let never = env.pixels(["expire", &base, "never", "--json"]).ok().json();
    assert_eq!(never, json!({"name": base, "expires_at": null}));
    env.pixels(["checkpoint", "restore", &base, "one"]).ok();
    assert_eq!(env.listed(&base)["expires_at"], Value::Null);

    // `prune` and `list` delete an expired pixel.
    let server = Server::shared();
    overdue(&timed);
    let dry = env.pixels(["prune", "--dry-run", "--json"]).ok().json();
    let expired = json!({"kind": "expired", "name": timed, "removed": false});
    assert!(dry.as_array().unwrap().contains(&expired), "{dry}");
    assert!(server.status(&timed).is_some());
    let done = env.pixels(["prune", "--json"]).ok().json();
    let expired = json!({"kind": "expired", "name": timed, "removed": true});
    assert!(done.as_array().unwrap().contains(&expired), "{done}");
    assert!(server.status(&timed).is_none());
    overdue(&clone);
    let printed = env.pixels(["list"]).ok();
    assert!(printed.stderr.contains(&clone) && !printed.stdout.contains(&clone));
    assert!(server.status(&clone).is_none());
    // A new expiry keeps an expired pixel.
    overdue(&base);
    env.pixels(["expire", &base, "1h"]).ok();
    assert!(env.remaining().contains(&base));

    for (args, code) in [
        (["expire", &base, "soon"], 2),
        (["expire", "no-such-pixel", "1h"], 3),
    ] {
        assert_eq!(env.pixels(args).code, code, "{args:?}");
    }
}

#[test]
#[ignore = "needs Incus"]
fn events_report_action_and_requester() {
    lab::ready();
    let env = TestEnv::new("events");
    let name = env.name("a");
    env.create("b");
    let mut child = env.spawn(["events", "-f", &name]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    env.pixels(["create", &name]).ok();
    env.checkpoint(&name, "here");
    env.pixels(["stop", &name]).ok();
    let mut heard = Vec::new();
    loop {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["pixel"], name);
        let last = event["action"] == "instance-shutdown" || event["action"] == "instance-stopped";
        heard.push(event);
        if last {
            break;
        }
    }
    let snapshot = heard
        .iter()
        .find(|one| one["action"] == "instance-snapshot-created");
    let snapshot = snapshot.unwrap_or_else(|| panic!("{heard:?}"));
    assert_eq!(snapshot["checkpoint"], "here");
    assert_eq!(snapshot["by"]["protocol"], "unix");
    assert!(snapshot["at"].is_string());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait::exit_code(&mut child), 130);

    // `events` prints past events that the server still has.
    let past = env.pixels(["events", &name]).ok().stdout;
    let past: Vec<Value> = past
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let actions: Vec<&str> = past
        .iter()
        .map(|one| one["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["instance-created", "instance-snapshot-created"]);
    assert!(past[0]["by"]["username"].is_string());
    assert_eq!(env.pixels(["events", "no-such-pixel"]).code, 3);
}

#[test]
#[ignore = "needs Incus"]
fn top_shows_usage_of_pixels() {
    lab::ready();
    let env = TestEnv::new("top");
    let (busy, idle) = (env.create("busy"), env.create("idle"));
    let script = "setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &";
    env.sh(&busy, script);
    let look = || {
        let reported = env.pixels(["top", "--json", &busy, &idle]).ok().json();
        let of = |name: &str| {
            let mut all = reported.as_array().unwrap().iter();
            all.find(|one| one["name"] == name).unwrap().clone()
        };
        (of(&busy), of(&idle))
    };
    // During boot, both pixels use the processor.
    wait::eventually("the busy pixel uses more processor time", || {
        let (busy, idle) = look();
        busy["cpu_percent"].as_f64() > idle["cpu_percent"].as_f64()
    });
    let (line, _) = look();
    assert!(line["memory_bytes"].as_u64().unwrap() > 1_000_000);
    assert!(line["processes"].as_u64().unwrap() > 3);
    let table = env.pixels(["top"]).ok().stdout;
    assert!(
        table.starts_with("NAME") && table.contains(&busy),
        "{table}"
    );
    assert_eq!(env.pixels(["top", "no-such-pixel"]).code, 3);
}
