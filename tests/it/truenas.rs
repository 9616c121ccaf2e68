//! The TrueNAS backend on a simulated server with real instances: the lifecycle
//! of pixels by the command line.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::env::TestEnv;
use crate::support::pty::Pty;
use crate::support::server::Server;
use crate::support::truenas::Nas;
use crate::support::wait;

fn run(env: &TestEnv, name: &str, script: &str) -> String {
    env.pixels(["exec", name, "--", "sh", "-c", script])
        .ok()
        .stdout
}

fn listed(env: &TestEnv, name: &str) -> Value {
    let all = env.pixels(["list", "--json"]).ok().json();
    let all = all.as_array().unwrap();
    all.iter().find(|p| p["name"] == name).unwrap().clone()
}

#[test]
#[ignore = "needs Incus"]
fn truenas_25_04_supports_lifecycle() {
    let (nas, env) = Nas::lab("25.04.2", "live");
    live((nas.without_ssh_server(), env));
}

#[test]
#[ignore = "needs Incus"]
fn truenas_25_10_supports_lifecycle() {
    let (nas, env) = Nas::lab("25.10.1", "live");
    live((nas.without_ssh_server(), env));
}

fn live((nas, mut env): (Nas, TestEnv)) {
    env.set("PIXELS_PROVISION_ENABLED", "true");
    env.config("[provision]\ndevtools = false\n[env]\nFOO = \"two words\"\n");
    let a = env.name("a");
    env.pixels(["create", &a, "--cpu", "1", "--memory", "512", "--wait"])
        .ok();
    let seen = listed(&env, &a);
    assert_eq!(
        (&seen["status"], &seen["cpu"]),
        (&"RUNNING".into(), &"1".into())
    );
    assert_eq!(seen["memory"], (512_u64 << 20).to_string());
    assert_eq!(
        (&seen["provision"], &seen["egress"]),
        (&"done".into(), &"unrestricted".into())
    );
    assert!(seen["ip"].is_string(), "{seen}");
    let taken = env.pixels(["create", &a]).expect(4);
    assert!(taken.stderr.contains("already exists"), "{}", taken.stderr);

    // The log is found although the machine ID differs from the image's.
    run(&env, &a, "logger -t mark found");
    let logged = "sudo journalctl -q -o cat -t mark";
    wait::eventually("journal has entry", || run(&env, &a, logged) == "found\n");
    commands(&env, &a);
    console(&env, &a);
    let status = env.pixels(["status", &a, "--json"]).ok().json();
    assert_eq!(status["overall"], "done", "{status}");
    copies(&nas, &env, &a);
    checkpoints(&env, &a);

    env.pixels(["stop", &a]).ok();
    env.pixels(["stop", &a]).ok();
    let stopped = env.pixels(["exec", &a, "--", "true"]).expect(125);
    assert!(stopped.stderr.contains("stopped"), "{}", stopped.stderr);
    let started = env.pixels(["start", &a]).ok();
    assert!(
        started.stdout.contains("SSH: ssh pixel@"),
        "{}",
        started.stdout
    );
    assert_eq!(run(&env, &a, "id -un"), "pixel\n");
    env.pixels(["destroy", "-f", &a]).ok();
    env.pixels(["destroy", "-f", &a]).expect(3);
    env.pixels(["exec", &a, "--", "true"]).expect(125);
    let known = std::fs::read_to_string(env.home().join(".config/pixels/known_hosts")).unwrap();
    assert!(!known.contains(&format!("{a}/")), "{known}");
    assert_eq!(nas.cron(), 0);
}

/// Checks arguments, streams and exit codes.
fn commands(env: &TestEnv, name: &str) {
    assert_eq!(
        run(env, name, "id -un; pwd; echo \"$FOO\"; hostname"),
        format!("pixel\n/home/pixel\ntwo words\npx-{name}\n")
    );
    let words = ["a b", "", "'", "\"$HOME\" `id`", "*", "é\n;&"];
    let argv = ["exec", name, "--", "printf", "[%s]"];
    let printed = env.pixels(argv.into_iter().chain(words)).ok().stdout;
    assert_eq!(printed, words.map(|word| format!("[{word}]")).concat());
    let both = env
        .pixels([
            "exec",
            name,
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ])
        .expect(7);
    assert_eq!(
        (both.stdout.as_str(), both.stderr.as_str()),
        ("out\n", "err\n")
    );
    env.pixels(["exec", name, "--", "no-such-command"])
        .expect(127);
    env.pixels(["exec", name, "--", "/etc/passwd"]).expect(126);
    env.pixels(["exec", name, "--", "sh", "-c", "kill -9 $$"])
        .expect(137);
    env.pixels(["exec", name, "--timeout", "1s", "--", "sleep", "60"])
        .expect(124);
    let text: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    let echoed = env
        .pixels_with(["exec", name, "--", "cat"], text.as_bytes())
        .ok();
    assert!(
        echoed.stdout == text,
        "{} bytes of {}",
        echoed.stdout.len(),
        text.len()
    );
    let argv = [
        "exec", "-u", "root", "-w", "/etc", "-e", "A=x y", name, "--",
    ];
    let command = ["sh", "-c", "echo $(id -u) $PWD $A"];
    let printed = env.pixels(argv.into_iter().chain(command)).ok().stdout;
    assert_eq!(printed, "0 /etc x y\n");
    // A reader that closes the pipe also ends the command.
    let mut child = env.spawn(["exec", name, "--", "yes"]);
    drop(child.stdout.take());
    drop(child.stdin.take());
    wait::exit_code(&mut child);
}

fn console(env: &TestEnv, name: &str) {
    let mut console = Pty::pixels(env, ["console", name]);
    console.send("KEPT=yes; echo \"[\"first\"]\"\r");
    console.expect("[first]");
    console.resize(101, 37);
    wait::eventually("the session has the new size", || {
        console.send("echo \"<\"$(stty size)\">\"\r");
        console.screen().contains("<37 101>")
    });
    drop(console);
    let sessions = env.pixels(["sessions", name, "--json"]).ok().json();
    assert_eq!(sessions[0]["name"], "console", "{sessions}");
    let mut console = Pty::pixels(env, ["console", name]);
    console.expect("[first]");
    console.send("echo \"[\"$KEPT\"]\"\r");
    console.expect("[yes]");
    console.send("exit\r");
    console.exit_code();
    let mut plain = Pty::pixels(env, ["exec", "-t", name, "--", "sh", "-c", "tty; exit 5"]);
    plain.expect("/dev/pts/");
    assert_eq!(plain.exit_code(), 5);
}

/// Clones keep files and settings and get a new identity.
fn copies(nas: &Nas, env: &TestEnv, a: &str) {
    run(env, a, "echo first >~/file");
    env.checkpoint(a, "one");
    run(env, a, "echo second >~/file");
    let (b, c) = (env.name("b"), env.name("c"));
    env.pixels(["create", &b, "--from", &format!("{a}:one")])
        .ok();
    env.pixels(["create", &c, "--from", a, "--memory", "256"])
        .ok();
    let identity = "cat /etc/machine-id; hostname; cat /etc/ssh/ssh_host_ed25519_key.pub";
    let all: Vec<String> = [a, &b, &c]
        .iter()
        .map(|name| run(env, name, identity))
        .collect();
    for (at, text) in all.iter().enumerate() {
        assert_eq!(text.lines().count(), 3, "{text}");
        for other in &all[at + 1..] {
            for (ours, theirs) in text.lines().zip(other.lines()) {
                assert_ne!(ours, theirs);
            }
        }
    }
    assert!(all[1].contains(&format!("\npx-{b}\n")), "{}", all[1]);
    assert_eq!(run(env, &b, "cat ~/file; id -un"), "first\npixel\n");
    assert_eq!(run(env, &c, "cat ~/file"), "second\n");
    let seen = listed(env, &c);
    assert_eq!(seen["memory"], (256_u64 << 20).to_string());
    assert_eq!(
        (&seen["cpu"], &seen["provision"]),
        (&"1".into(), &"done".into())
    );
    // Temporary checkpoints are hidden. A cloned checkpoint cannot be deleted.
    let labels = env.pixels(["checkpoint", "list", a, "--json"]).ok().json();
    assert_eq!(labels.as_array().unwrap().len(), 1, "{labels}");
    let refused = env.pixels(["checkpoint", "delete", a, "one"]).expect(1);
    assert!(refused.stderr.contains("cloned"), "{}", refused.stderr);
    env.pixels(["create", &env.name("x"), "--from", &format!("{a}:none")])
        .expect(3);
    env.pixels(["destroy", "-f", &b, &c]).ok();
    assert_eq!(nas.snapshots_of(a), ["one"]);
    env.pixels(["fork", a, "-n", "2"]).ok();
    let (first, second) = (format!("{a}-1"), format!("{a}-2"));
    assert_eq!(
        run(env, &second, "hostname; cat ~/file"),
        format!("px-{second}\nsecond\n")
    );
    env.pixels(["destroy", "-f", &first, &second]).ok();
    assert_eq!(nas.snapshots_of(a), ["one"]);
}

fn checkpoints(env: &TestEnv, a: &str) {
    env.pixels(["checkpoint", "create", a, "--label", "one"])
        .expect(4);
    env.checkpoint(a, "two");
    let labels = env.pixels(["checkpoint", "list", a, "--json"]).ok().json();
    assert_eq!(
        (&labels[0]["label"], &labels[1]["label"]),
        (&"one".into(), &"two".into())
    );
    assert!(
        labels[0]["created_at"].as_str().unwrap() > "2026",
        "{labels}"
    );
    run(env, a, "echo third >~/file");
    env.pixels(["checkpoint", "restore", a, "two"]).ok();
    assert_eq!(run(env, a, "cat ~/file"), "second\n");
    // A restore of an older checkpoint asks first and changes nothing.
    let asks = env.pixels(["checkpoint", "restore", a, "one"]).expect(2);
    assert!(asks.stderr.contains("two"), "{}", asks.stderr);
    assert_eq!(run(env, a, "cat ~/file"), "second\n");
    env.pixels(["checkpoint", "restore", "--force", a, "one"])
        .ok();
    assert_eq!(run(env, a, "cat ~/file"), "first\n");
    let labels = env.pixels(["checkpoint", "list", a, "--json"]).ok().json();
    assert_eq!(labels.as_array().unwrap().len(), 1, "{labels}");
    env.pixels(["checkpoint", "restore", a, "none"]).expect(3);
    // A restored disk changes the host key, and pixels accepts the key.
    let renew = "rm /etc/ssh/ssh_host_*; ssh-keygen -A >/dev/null; systemctl restart ssh";
    env.checkpoint(a, "keys");
    env.pixels(["exec", "-u", "root", a, "--", "sh", "-c", renew])
        .ok();
    let changed = env.pixels(["exec", a, "--", "true"]).expect(125);
    assert!(changed.stderr.contains("host key"), "{}", changed.stderr);
    env.pixels(["checkpoint", "restore", a, "keys"]).ok();
    assert_eq!(run(env, a, "cat ~/file"), "first\n");
    env.pixels(["checkpoint", "delete", a, "keys"]).ok();
    env.pixels(["checkpoint", "delete", a, "keys"]).expect(3);
}

#[test]
#[ignore = "needs Incus"]
fn truenas_list_does_not_wait_for_unreachable_pixels() {
    let (_nas, env) = Nas::lab("25.10.1", "reach");
    let a = env.create("a");
    env.pixels(["fork", &a, "-n", "1"]).ok();
    let names = [a.clone(), format!("{a}-1")];
    let server = Server::shared();
    for name in &names {
        // The unit is masked, because a booting pixel would start sshd again.
        let instance = format!("px-{name}");
        let script = "systemctl mask --now ssh.socket ssh >&2; systemctl is-active ssh; true";
        wait::eventually("sshd has ended", || {
            server.run(&instance, &["sh", "-c", script]).trim() == "inactive"
        });
        // According to the record, provisioning was running at the last check.
        let record = json!({"config": {"environment.pixels_provision": "running"}});
        server.done("PATCH", &format!("/1.0/instances/px-{name}"), &record);
    }
    // The limit is shorter than the wait for an unreachable pixel.
    let limit = Duration::from_secs(40);
    let listed = env.pixels_within(["list", "--json"], limit).ok().json();
    for name in &names {
        let mut seen = listed.as_array().unwrap().iter();
        let seen = seen.find(|pixel| pixel["name"] == **name).unwrap();
        assert_eq!(
            (&seen["status"], &seen["provision"]),
            (&"RUNNING".into(), &"running".into())
        );
    }
}
