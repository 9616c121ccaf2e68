//! Servers and pixels that send too much data: pixels disconnects, reports an
//! error and uses bounded memory.

use std::time::Duration;

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::proxy::{Fault, Proxy};

/// Time limit to detect a hang; an endless answer is aborted in seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// The error message of a command whose answer is too large.
#[track_caller]
fn too_large(env: &TestEnv, args: &[&str]) -> String {
    let error = env.pixels_within(args, LIMIT).expect(1).error();
    assert_eq!(error["kind"], "too_large", "{args:?} {error}");
    error["message"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs Incus"]
fn endless_responses_fail_with_too_large() {
    lab::ready();
    let proxy = Proxy::start();
    let env = proxy.env("endless");
    for (status, bound) in [(200, "64 MiB"), (500, "1 MiB")] {
        proxy.on("GET /1.0/instances?*", 0, Fault::Endless(status));
        let message = too_large(&env, &["list", "--json"]);
        assert!(proxy.heal());
        let socket = proxy.socket();
        let whose = format!("the answer of {} to /1.0/instances?", socket.display());
        assert!(message.contains(&whose), "{message}");
        let size = format!("is larger than {bound}");
        assert!(message.ends_with(&size), "{message}");
    }
}

/// Root in a pixel controls the output of programs and the size of files.
#[test]
#[ignore = "needs Incus"]
fn endless_output_of_pixel_fails_with_too_large() {
    lab::ready();
    let env = TestEnv::new("hostile");
    let name = env.create("a");
    let script = "truncate -s 2G /root/huge && mkdir /root/folder && \
        printf '#!/bin/bash\\nexec yes\\n' >/bin/endless && chmod +x /bin/endless && \
        ln -sf endless /bin/sh";
    env.pixels(["exec", &name, "--", "bash", "-c", script]).ok();
    let here = tempfile::tempdir().unwrap();
    let there = here.path().display().to_string();
    let folder = format!("{name}:/root/folder");
    let asked = [
        (&["status", &name, "--json"][..], "16 MiB"),
        (&["sync", &folder, &there, "--json"], "256 MiB"),
    ];
    for (args, bound) in asked {
        let message = too_large(&env, args);
        assert!(message.contains(bound), "{args:?} {message}");
    }
    env.pixels(["stop", &name]).ok();
    let huge = format!("{name}:/root/huge");
    too_large(&env, &["pull", &huge, &there, "--json"]);
    assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0);
    env.pixels(["destroy", "--force", &name]).ok();
}
