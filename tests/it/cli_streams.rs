//! A full disk behind stdout is an error; a closed pipe is not.

use std::fs::File;
use std::io::{BufRead, BufReader};

use crate::support::env::{Outcome, TestEnv};
use crate::support::{lab, wait};

/// Runs pixels with stdout on a full disk.
fn to_a_full_disk(env: &TestEnv, args: &[&str]) -> Outcome {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = env.command(args).stdout(full).output().unwrap();
    Outcome {
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: wait::code(output.status),
        ..Outcome::default()
    }
}

#[track_caller]
fn assert_lost(outcome: &Outcome) {
    let printed = "writing to stdout: No space left on device";
    assert_eq!(outcome.stderr.matches(printed).count(), 1, "{outcome:?}");
}

#[test]
fn results_on_full_disk_fail() {
    let env = TestEnv::bare();
    for args in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["network", "presets"],
        &["network"],
        &["completions", "zsh"],
        &["man"],
        &["--version"],
        &["exec", "--help"],
    ] {
        let lost = to_a_full_disk(&env, args).expect(1);
        if args.contains(&"--json") {
            assert_eq!(lost.error()["kind"], "io", "{args:?}");
        } else {
            assert_lost(&lost);
        }
    }
}

#[test]
#[ignore = "needs Incus"]
fn exec_output_on_full_disk_fails() {
    lab::ready();
    let env = TestEnv::new("lost");
    let name = env.create("a");
    for script in ["echo little", "head -c 3000000 /dev/zero"] {
        let args = ["exec", &name, "--", "sh", "-c", script];
        assert_lost(&to_a_full_disk(&env, &args).expect(125));
    }
    to_a_full_disk(&env, &["exec", &name, "--", "true"]).ok();
    let script = "head -c 3000000 /dev/zero > /root/big";
    env.pixels(["exec", &name, "--", "sh", "-c", script]).ok();
    let big = format!("{name}:/root/big");
    assert_lost(&to_a_full_disk(&env, &["pull", &big, "-"]).expect(1));

    // A reader that closes the pipe early causes no error.
    let mut child = env.spawn(["pull", &big, "-"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*printed), (Some(0), ""));
}

#[test]
#[ignore = "needs Incus"]
fn events_exit_when_reader_closes() {
    lab::ready();
    let env = TestEnv::new("unheard");
    let name = env.create("a");
    let mut child = env.spawn(["events", "-f", &name]);
    let stdout = BufReader::new(child.stdout.take().unwrap());
    // The server may not be listening yet.
    let (reported, listening) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // Reads one line and closes the pipe.
        scope.spawn(move || reported.send(stdout.lines().next().unwrap().unwrap()));
        let line = wait::until("an event", || {
            env.pixels(["expire", &name, "1h"]).ok();
            listening.try_recv().ok()
        });
        assert!(line.contains(&name), "{line}");
    });
    wait::until("the command whose output has no reader ends", || {
        env.pixels(["expire", &name, "2h"]).ok();
        child.try_wait().unwrap()
    });
    assert_eq!(wait::exit_code(&mut child), 0);
}
