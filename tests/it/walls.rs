//! `pixels doctor --walls`: every attempt is blocked on a healthy server, an
//! opened policy is found, and an interrupted run leaves nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::egress_pixel::inside;
use crate::support::env::{Outcome, TestEnv, finished};
use crate::support::lab;
use crate::support::private_daemon::signal;
use crate::support::server::Server;
use crate::support::wait::eventually;
use crate::support::walls::Walls;
use crate::support::wan::Wan;
use crate::support::wan_pixel;

/// A run takes less than a minute on an idle machine.
const LIMIT: Duration = Duration::from_secs(240);
const ARGS: [&str; 2] = ["doctor", "--walls"];
/// The result of each attempt.
#[track_caller]
fn results(outcome: &Outcome) -> BTreeMap<String, String> {
    let rows = outcome.json();
    let rows = rows.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rows.map(|row| (text(&row["attempt"]), text(&row["result"])))
        .collect()
}

#[track_caller]
fn all_blocked(env: &TestEnv) {
    let outcome = env.pixels_within([&ARGS[..], &["--json"]].concat(), LIMIT);
    let results = results(&outcome);
    assert!(results.len() >= 20, "{outcome:?}");
    for (attempt, result) in &results {
        assert_eq!(result, "blocked", "{attempt}: {outcome:?}");
    }
    outcome.expect(0);
}

/// Names of the pixels that this process created.
#[track_caller]
fn created_by(pid: u32) -> Vec<String> {
    let all = Server::shared().get("/1.0/instances?recursion=1");
    let is_own = |instance: &&Value| {
        let creator = instance["config"]["user.pixels.created-by"].as_str();
        creator.is_some_and(|creator| creator.split(' ').nth(2) == Some(&pid.to_string()))
    };
    let own = all.as_array().unwrap().iter().filter(is_own);
    own.map(|instance| instance["name"].as_str().unwrap()["px-".len()..].to_owned())
        .collect()
}

/// Starts a run and waits until it prints this step.
fn started_until(env: &TestEnv, step: &str) -> Child {
    let mut child = env.start([&ARGS[..], &["-v"]].concat());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reached = lines.by_ref().map_while(Result::ok);
    let reached = reached.take_while(|line| !line.contains(step)).count();
    assert!(reached > 0, "{step}");
    // The run must not wait for a reader.
    std::thread::spawn(move || lines.count());
    child
}

#[test]
#[ignore = "needs Incus"]
fn walls_of_gateway_hold_and_hole_is_found() {
    lab::ready();
    let walls = Walls::new("dw", Wan::any());
    let (env, server, gateway) = (&walls.env, &walls.server, walls.gateway_name());
    all_blocked(env);

    let hole = "nft insert rule inet pixels outgoing udp dport 4433 accept";
    server.run(&gateway, &["sh", "-c", hole]);
    let outcome = env.pixels_within([&ARGS[..], &["--json"]].concat(), LIMIT);
    let outcome = outcome.expect(2);
    let found = results(&outcome);
    assert_eq!(found["a raw address, UDP"], "got-out", "{outcome:?}");
    assert_eq!(found["a raw address, TCP"], "blocked", "{outcome:?}");
    assert_eq!(found["a denied name"], "blocked", "{outcome:?}");

    for (step, number, code) in [
        ("creating", Signal::INT, 130),
        ("trying to get out", Signal::TERM, 143),
    ] {
        let child = started_until(env, step);
        let pid = child.id();
        signal(pid, number);
        let outcome = finished(child, LIMIT).expect(code);
        assert_eq!(created_by(pid), [""; 0], "{outcome:?}");
    }
    let child = started_until(env, "trying to get out");
    let pid = child.id();
    signal(pid, Signal::KILL);
    let _ = finished(child, LIMIT);
    let left = created_by(pid);
    assert_eq!(left.len(), 2, "{left:?}");
    let listed = env.prune(&["--dry-run"]);
    for name in &left {
        assert!(listed.contains(&format!("pixel {name}")), "{listed:?}");
    }
    env.destroy(left).ok();
    // No script of an interrupted run remains in the gateway.
    eventually("the scripts have ended", || {
        let count = "cat /proc/[0-9]*/comm | grep -c perl || true";
        server.run(&gateway, &["sh", "-c", count]).trim() == "0"
    });
}

#[test]
#[ignore = "needs Incus"]
fn walls_inside_pixel_hold_and_hole_is_found() {
    lab::ready();
    let env = inside("dwi", wan_pixel::Wan::up(), "");
    all_blocked(&env);

    // Opens the filter of the restricted pixel, again after each policy change.
    let child = env.start([&ARGS[..], &["--json"]].concat());
    let pid = child.id();
    let rule = "nft insert rule inet pixels outgoing udp dport 4433 accept";
    let open = format!("systemd-run -q sh -c 'while sleep 0.1; do {rule}; done'");
    eventually("the filter is open", || {
        let names = created_by(pid);
        let restricted = names.iter().find(|name| name.ends_with("-restricted"));
        restricted.is_some_and(|name| {
            let args = ["exec", "-u", "root", name, "--", "sh", "-c", &open];
            env.pixels(args).code == 0
        })
    });
    let outcome = finished(child, LIMIT).expect(2);
    let found = results(&outcome);
    assert_eq!(found["a raw address, UDP"], "got-out", "{outcome:?}");
    assert_eq!(found["sudo"], "got-out", "{outcome:?}");
    assert_eq!(found["a raw address, TCP"], "blocked", "{outcome:?}");
}
