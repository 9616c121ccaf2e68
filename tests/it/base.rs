//! Base pixels on a real daemon: dependent bases, concurrent builds, failed
//! builds, and the leftovers of a killed build.

use std::time::Duration;

use crate::support::env::{TestEnv, finished};
use crate::support::lab;
use crate::support::server::Server;
use crate::support::wait::eventually;

const LONG: Duration = Duration::from_secs(120);

/// An environment with its own prefix for base names.
fn environment(test: &str) -> (TestEnv, String) {
    let mut env = TestEnv::new(test);
    let prefix = format!("{}-", env.name("b"));
    env.set("PIXELS_MCP_BASE_PREFIX", &prefix);
    (env, prefix)
}

/// Configures base `first` from the image and base `second` from `first`.
fn chain(env: &TestEnv, first: &str, second: &str) {
    for (name, script) in [("first.sh", first), ("second.sh", second)] {
        std::fs::write(
            env.home().join(name),
            format!("#!/bin/sh\nset -eu\n{script}\n"),
        )
        .unwrap();
    }
    env.config(
        "[mcp.bases.first]\nparent_image = \"ubuntu/24.04\"\nsetup_script = \"~/first.sh\"\n\
         [mcp.bases.second]\nfrom = \"first\"\nsetup_script = \"~/second.sh\"\n",
    );
}

/// Creates a clone of a base and returns its name.
#[track_caller]
fn clone_of(env: &TestEnv, prefix: &str, base: &str) -> String {
    let name = env.name(&format!("of-{base}"));
    let from = format!("{prefix}{base}:initial");
    env.pixels(["create", &name, "--from", &from]).ok();
    name
}

#[track_caller]
fn status(env: &TestEnv, base: &str) -> serde_json::Value {
    let list = env.pixels(["base", "list", "--json"]).ok().json();
    let all = list.as_array().unwrap();
    all.iter().find(|one| one["name"] == base).unwrap().clone()
}

#[test]
#[ignore = "needs Incus"]
fn concurrent_base_builds_build_each_base_once() {
    lab::ready();
    let (env, prefix) = environment("race");
    chain(
        &env,
        "echo one >>/var/tmp/built; sleep 1",
        "echo two >>/var/tmp/built; sleep 1",
    );
    let racers = [0, 1].map(|_| env.spawn(["base", "build", "second"]));
    eventually("`base list` shows the running build", || {
        status(&env, "first")["status"] == "building"
    });
    let ends = racers.map(|racer| finished(racer, LONG).ok());
    let waited = ends
        .iter()
        .filter(|end| end.stderr.contains("waiting for another build"))
        .count();
    assert_eq!(waited, 1, "{ends:?}");
    assert_eq!(status(&env, "second")["status"], "ready");
    let clone = clone_of(&env, &prefix, "second");
    assert_eq!(env.sh(&clone, "cat /var/tmp/built"), "one\ntwo\n");
    let shown = env.pixels(["network", "show", &clone, "--json"]).ok();
    assert_eq!(shown.json()["mode"], "agent");
    // Only the two stopped bases and the clone exist.
    assert_eq!(env.remaining().len(), 3);
    let prune = env.pixels(["prune", "--dry-run", "--json"]).ok();
    assert!(!prune.stdout.contains(&prefix), "{}", prune.stdout);
}

#[test]
#[ignore = "needs Incus"]
fn failed_base_build_shows_output_and_keeps_old_base() {
    lab::ready();
    let (env, prefix) = environment("failed");
    chain(
        &env,
        "echo about to fail; echo the reason >&2; exit 7",
        "true",
    );
    env.pixels(["base", "build", "second"])
        .expect(1)
        .reports("failed with exit code 7")
        .reports("the reason");
    assert_eq!(env.remaining(), Vec::<String>::new());
    assert_eq!(status(&env, "first")["status"], "missing");

    chain(&env, "echo 1 >/var/tmp/version", "true");
    env.pixels(["base", "build", "first"]).ok();
    chain(&env, "echo the second way fails; exit 3", "true");
    let outdated = env.pixels(["base", "outdated", "--json"]).ok().json();
    assert_eq!(outdated[0]["outdated"][0], "its recipe has changed");
    env.pixels(["base", "rebuild", "first"]).expect(1);
    assert_eq!(env.remaining(), [format!("{prefix}first")]);
    let old = clone_of(&env, &prefix, "first");
    assert_eq!(env.sh(&old, "cat /var/tmp/version"), "1\n");
    env.pixels(["destroy", "--force", &old]).ok();

    chain(&env, "echo 2 >/var/tmp/version", "true");
    env.pixels(["base", "rebuild", "first"]).ok();
    let new = clone_of(&env, &prefix, "first");
    assert_eq!(env.sh(&new, "cat /var/tmp/version"), "2\n");
    assert_eq!(status(&env, "first")["status"], "ready");
    env.pixels(["base", "build", "nothing"])
        .expect(3)
        .reports("configured bases: dev, first");
}

#[test]
#[ignore = "needs Incus"]
fn base_build_deletes_leftovers_of_killed_build() {
    lab::ready();
    let (env, prefix) = environment("killed");
    chain(&env, "echo begun; sleep 60", "true");
    let mut build = env.spawn(["base", "build", "first"]);
    let work = format!("{prefix}first-building");
    let server = Server::shared();
    let wait_for_sleep = || {
        let sleeps = ["exec", &work, "--", "pgrep", "-x", "sleep"];
        eventually("the build is running", || {
            !server.pixels(&work).is_empty() && env.pixels(sleeps).code == 0
        });
    };
    wait_for_sleep();
    build.kill().unwrap();
    build.wait().unwrap();
    assert_eq!(server.pixels(&work).len(), 1);
    chain(&env, "echo whole >/var/tmp/built", "true");
    env.pixels(["base", "build", "first"]).ok();
    assert_eq!(env.remaining(), [format!("{prefix}first")]);

    // An interrupted build deletes its own pixel.
    chain(&env, "echo begun; sleep 60", "true");
    let build = env.spawn(["base", "rebuild", "first"]);
    wait_for_sleep();
    let pid = rustix::process::Pid::from_child(&build);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let _ = finished(build, LONG).expect(130);
    assert_eq!(env.remaining(), [format!("{prefix}first")]);
}

#[test]
#[ignore = "needs Incus"]
fn base_of_expiring_parent_never_expires() {
    lab::ready();
    let (env, prefix) = environment("expiring");
    chain(&env, "true", "true");
    // Creates a pixel with a base's name and a lifetime of two hours.
    let (first, second) = (format!("{prefix}first"), format!("{prefix}second"));
    env.pixels(["create", &first, "--ttl", "2h"]).ok();
    env.checkpoint(&first, "mine");
    env.pixels(["base", "build", "second"]).ok();
    assert!(env.listed(&first)["expires_at"].is_string());
    assert!(env.listed(&second)["expires_at"].is_null());
}

#[test]
#[ignore = "needs Incus"]
fn built_in_bases_have_their_tools() {
    lab::ready();
    let (mut env, prefix) = environment("built-in");
    env.set("PIXELS_PROVISION_ENABLED", "true")
        .set("PIXELS_PROVISION_DEVTOOLS", "false");
    env.pixels(["base", "build", "python"])
        .ok()
        .reports("base dev: running");
    let built = env.pixels(["base", "build", "node"]).ok();
    assert!(
        !built.stderr.contains("base dev: running"),
        "{}",
        built.stderr
    );
    let dev = "id -un | grep -x pixel && git --version && gcc --version && jq --version";
    for (base, script) in [
        (
            "python",
            "python3 -m venv v && v/bin/pip --version && pipx --version",
        ),
        ("node", "node --version | grep '^v[0-9]' && npm --version"),
    ] {
        let clone = clone_of(&env, &prefix, base);
        let versions = env.sh(&clone, &format!("{dev} && {script}"));
        eprintln!("{base}: {}", versions.replace('\n', " "));
    }
}

#[test]
#[ignore = "needs Incus"]
fn bases_work_with_pixel_placement() {
    lab::ready();
    let (env, prefix) = environment("inside");
    // The egress rules are in force while the setup script runs.
    let rules = "nft list table inet pixels >/dev/null; systemctl -q is-active pixels-resolver";
    chain(
        &env,
        &format!("{rules}; echo one >>/var/tmp/built"),
        &format!("{rules}; echo two >>/var/tmp/built"),
    );
    let bases = std::fs::read_to_string(env.home().join(".config/pixels/config.toml")).unwrap();
    env.config(&format!("[defaults]\nnetwork = \"incusbr0\"\n{bases}"));
    env.pixels(["base", "build", "second"]).ok();
    let clone = clone_of(&env, &prefix, "second");
    // The resolver starts while the clone boots.
    eventually("the policy is in force", || {
        let run = ["exec", &clone, "--", "sh", "-ec", rules];
        env.pixels(run).code == 0
    });
    assert_eq!(env.sh(&clone, "cat /var/tmp/built"), "one\ntwo\n");
    let shown = env
        .pixels(["network", "show", &clone, "--json"])
        .ok()
        .json();
    let facts = (&shown["mode"], &shown["enforced_by"]);
    assert_eq!(facts, (&"agent".into(), &"pixel".into()), "{shown}");
}
