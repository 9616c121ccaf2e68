//! Policies that pixels enforce themselves, on the daemon: in force at every
//! boot, in clones and after restores, and equal to the record.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{IpAddr, TcpStream};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use serde_json::json;

use crate::support::env::{Outcome, TestEnv, finished};
use crate::support::server::Server;
use crate::support::wan_pixel::Wan;
use crate::support::{lab, wait};

/// Pixels on the host's own network, whose names the fake internet answers.
pub fn inside(test: &str, wan: &Wan, more: &str) -> TestEnv {
    let env = TestEnv::new(test);
    env.config(&format!(
        "[network]\nplacement = \"pixel\"\n[defaults]\ndns = [\"{}\"]\n{more}",
        wan.resolver()
    ));
    env
}

pub fn sh(env: &TestEnv, name: &str, script: &str) -> Outcome {
    env.pixels(["exec", name, "--", "bash", "-c", script])
}

/// The greeting of the server at this address.
fn hello(env: &TestEnv, name: &str, host: &str) -> String {
    let script = format!("timeout 5 head -n 1 </dev/tcp/{host}/80 2>&1");
    sh(env, name, &script).stdout.trim().to_owned()
}

fn answers(env: &TestEnv, name: &str, host: &str) {
    wait::eventually("an allowed name answers", || {
        hello(env, name, host) == "hello"
    });
}

/// Tries from the first moment of every boot on, and never stops.
fn try_early(env: &TestEnv, name: &str, wan: &Wan) {
    let script = format!(
        "cat >/etc/systemd/system/early.service <<'EOF'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/bash -c 'while :; do echo >/dev/udp/{denied}/9; (echo >/dev/tcp/{denied}/80); ping -c1 -W1 {denied}; done'
[Install]
WantedBy=sysinit.target
EOF
systemctl -q enable --now early",
        denied = wan.address(20)
    );
    sh(env, name, &script).ok();
}

fn is_trying(env: &TestEnv, name: &str) -> bool {
    let script = "systemctl is-active early && [ -s /proc/net/route ]";
    sh(env, name, script).stdout == "active\n"
}

/// The policy on record.
fn in_force(env: &TestEnv, name: &str) -> Vec<String> {
    let shown = env.pixels(["network", "show", name, "--json"]).ok().json();
    assert_eq!(shown["enforced_by"], "pixel", "{shown}");
    let entries = shown["in_force"].as_array().unwrap();
    let entries = entries
        .iter()
        .map(|entry| entry.as_str().unwrap().to_owned());
    entries.collect()
}

/// What the packet filter and the resolver inside really let through.
fn really(env: &TestEnv, name: &str) -> Vec<String> {
    let script = "until systemctl list-jobs; do sleep 0.1; done >/dev/null 2>&1
                  systemctl start pixels-resolver
                  sed -n 's,^server=/\\([a-z].*\\)/.*,\\1,p' /run/pixels/resolver.conf | sort -u
                  systemctl -q is-active pixels-resolver pixels-egress && nft -t list chain inet pixels outgoing";
    let stdout = sh(env, name, script).ok().stdout;
    assert!(stdout.contains("policy drop"), "{stdout}");
    let names = stdout.lines().take_while(|line| !line.starts_with("table"));
    names.map(str::to_owned).collect()
}

fn create(env: &TestEnv, name: &str, allow: &[&str]) {
    let mut args = vec!["create", name, "--egress", "allowlist"];
    args.extend(allow.iter().flat_map(|entry| ["--allow", *entry]));
    env.pixels(args).ok();
}

#[test]
#[ignore = "needs Incus"]
fn allowed_hosts_answer_and_denied_hosts_are_logged() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel", wan, "");
    let name = env.name("box");
    create(&env, &name, &["allowed.test"]);
    assert_eq!(in_force(&env, &name), ["allowed.test"]);
    answers(&env, &name, "allowed.test");
    let unknown = sh(&env, &name, "getent hosts denied.test").expect(2);
    assert_eq!(unknown.stdout, "");
    let denied = wan.address(30);
    let refused = sh(&env, &name, &format!("echo </dev/tcp/{denied}/443"));
    assert!(refused.stderr.contains("No route to host"), "{refused:?}");
    assert_eq!(wan.packets_to(30), 0);

    let log = env.pixels(["network", "log", &name, "--json"]).ok().json();
    for entry in ["denied.test".to_owned(), format!("{denied}:443")] {
        let line = log.as_array().unwrap().iter().find(|l| l["entry"] == entry);
        let line = line.unwrap_or_else(|| panic!("no {entry} in {log}"));
        assert_eq!(
            line["admit"],
            format!("pixels network allow {name} {entry}")
        );
    }
    let check = ["network", "check", &name, "denied.test", "--json"];
    let check = env.pixels(check).expect(1).json();
    assert_eq!(
        (&check["allowed"], &check["enforced_by"]),
        (&json!(false), &json!("pixel"))
    );
    env.pixels(["network", "check", &name, "allowed.test:80"])
        .ok();

    // Others reach it as before.
    let mut server = background(&env, &name, SERVER);
    assert_eq!(server.line(), "ready");
    let address = address(&env, &name);
    let mut from_outside = TcpStream::connect((address, 8022)).unwrap();
    from_outside.write_all(b"x\n").unwrap();
    let mut line = String::new();
    BufReader::new(&from_outside).read_line(&mut line).unwrap();
    assert_eq!(line, "served\n");
    // Its resolver answers the pixel alone.
    let shortly = Duration::from_millis(300);
    assert!(TcpStream::connect_timeout(&(address, 553).into(), shortly).is_err());
}

/// Answers one line on port 8022.
const SERVER: &str = "exec perl -MSocket -e '
    socket(S, PF_INET, SOCK_STREAM, 0); setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1);
    bind(S, sockaddr_in(8022, INADDR_ANY)) and listen(S, 5) or die; $| = 1; print \"ready\\n\";
    while (accept(C, S)) { sysread(C, $line, 100); syswrite(C, \"served\\n\"); close C }'";

/// A command in a pixel that goes on, and ends with the test.
struct Background {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

fn background(env: &TestEnv, name: &str, script: &str) -> Background {
    let mut child = env.spawn(["exec", name, "--", "bash", "-c", script]);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Background { child, lines }
}

impl Background {
    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(env: &TestEnv, name: &str) -> IpAddr {
    wait::until("the pixel has an address", || {
        let all = env.pixels(["list", "--json"]).ok().json();
        let pixel = all.as_array()?.iter().find(|p| p["name"] == name)?.clone();
        assert_eq!(pixel["enforced_by"], "pixel");
        pixel["ip"].as_str()?.parse().ok()
    })
}

/// Prints "up" when connected, and "cut" when no answer arrives any more.
fn talk(host: &str) -> String {
    format!(
        "until exec 3<>/dev/tcp/{host}/80; do sleep 0.1; done 2>/dev/null
         read -r -u 3 line; echo up
         while echo \"$((count++))\" >&3 && read -r -t 5 -u 3 line; do sleep 0.05; done 2>/dev/null
         echo cut"
    )
}

#[test]
#[ignore = "needs Incus"]
fn policy_change_closes_denied_connections() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-cut", wan, "");
    let name = env.name("box");
    create(&env, &name, &["allowed.test", "other.test"]);
    let mut kept = background(&env, &name, &talk("allowed.test"));
    let mut lost = background(&env, &name, &talk("other.test"));
    assert_eq!((kept.line(), lost.line()), ("up".into(), "up".into()));
    env.pixels(["network", "deny", &name, "other.test"]).ok();
    assert_eq!(lost.line(), "cut");
    assert_eq!(in_force(&env, &name), ["allowed.test"]);
    assert_eq!(really(&env, &name), ["allowed.test"]);
    assert!(kept.child.try_wait().unwrap().is_none());

    // Lifted, and put back: what was open before there was a policy is cut too.
    env.pixels(["network", "set", &name, "unrestricted"]).ok();
    answers(&env, &name, &wan.address(11));
    let shown = env.pixels(["network", "show", &name, "--json"]).ok().json();
    assert_eq!(
        (&shown["enforced"], &shown["enforced_by"]),
        (&json!(false), &json!(null))
    );
    sh(&env, &name, "nft list table inet pixels").expect(1);
    let mut open = background(&env, &name, &talk(&wan.address(11)));
    assert_eq!(open.line(), "up");
    env.pixels([
        "network",
        "set",
        &name,
        "allowlist",
        "--allow",
        "allowed.test",
    ])
    .ok();
    assert_eq!(open.line(), "cut");
    // However often: a service of the pixel may start so many times in a while.
    for _ in 0..4 {
        env.pixels(["network", "set", &name, "unrestricted"]).ok();
        let set = ["network", "set", &name, "allowlist"];
        let entry = ["--allow", "allowed.test"];
        env.pixels([&set[..], &entry].concat()).ok();
    }
    sh(&env, &name, "systemctl is-active systemd-resolved").ok();
    answers(&env, &name, "allowed.test");

    // Another client has other settings: the pixel keeps its resolvers.
    let allow = ["network", "allow", &name, "allowed.test"];
    let elsewhere = env.command(allow).env("HOME", "/nonexistent").output();
    assert!(elsewhere.unwrap().status.success());
    answers(&env, &name, "allowed.test");

    // Root removed the policy: `show` reports that, and `set` enforces it again.
    let holds = || env.pixels(["network", "show", &name, "--json"]).ok().json()["holds"].clone();
    assert_eq!(holds(), true);
    sh(
        &env,
        &name,
        "nft delete table inet pixels; rm /etc/systemd/system/pixels-*; systemctl daemon-reload",
    )
    .ok();
    assert_eq!(holds(), false);
    let status = env.pixels(["status", &name]).ok().stderr;
    assert!(status.contains("does not enforce its policy"), "{status}");
    env.pixels(["network", "allow", &name, "allowed.test"]).ok();
    assert_eq!(holds(), true);
    assert_eq!(really(&env, &name), ["allowed.test"]);

    // After concurrent changes, the policy inside equals the record.
    let at_once = ["a.test", "b.test", "c.test", "d.test"]
        .map(|entry| env.spawn(["network", "allow", &name, entry]));
    for change in at_once {
        finished(change, Duration::from_secs(60)).ok();
    }
    assert_eq!(really(&env, &name), in_force(&env, &name));
    env.pixels([
        "network",
        "set",
        &name,
        "allowlist",
        "--allow",
        "allowed.test",
    ])
    .ok();

    // A change that fails changes nothing.
    sh(
        &env,
        &name,
        "mv /usr/sbin/dnsmasq /usr/sbin/was-dnsmasq; ln -s /bin/false /usr/sbin/dnsmasq",
    )
    .ok();
    env.pixels(["network", "allow", &name, "other.test"])
        .expect(1);
    assert_eq!(in_force(&env, &name), ["allowed.test"]);
    sh(
        &env,
        &name,
        "mv -f /usr/sbin/was-dnsmasq /usr/sbin/dnsmasq; systemctl restart pixels-resolver",
    )
    .ok();
    assert_eq!(really(&env, &name), ["allowed.test"]);
    answers(&env, &name, "allowed.test");
}

#[test]
#[ignore = "needs Incus"]
fn policy_survives_restart_clone_and_restore() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-boot", wan, "");
    let name = env.name("box");
    create(&env, &name, &["allowed.test"]);
    try_early(&env, &name, wan);
    let holds = |name: &str, allowed: &str| {
        wait::eventually("it has booted and tries", || is_trying(&env, name));
        assert_eq!(in_force(&env, name), [allowed]);
        assert_eq!(really(&env, name), [allowed]);
        answers(&env, name, allowed);
        assert_eq!(wan.packets_to(20), 0);
    };
    holds(&name, "allowed.test");
    sh(&env, &name, "touch /run/before; systemctl reboot");
    wait::eventually("it boots again", || {
        sh(&env, &name, "[ ! -e /run/before ]").code == 0
    });
    holds(&name, "allowed.test");
    env.pixels(["stop", &name]).ok();
    env.pixels(["start", &name]).ok();
    holds(&name, "allowed.test");

    // A clone has what its source has, or what was asked for.
    env.pixels(["checkpoint", "create", &name, "--label", "first"])
        .ok();
    let clone = env.name("clone");
    env.pixels(["create", &clone, "--from", &name]).ok();
    holds(&clone, "allowed.test");
    let other = env.name("other");
    let origin = format!("{name}:first");
    env.pixels([
        "create",
        &other,
        "--from",
        &origin,
        "--egress",
        "allowlist",
        "--allow",
        "other.test",
    ])
    .ok();
    holds(&other, "other.test");

    // A checkpoint brings its own policy back, to a pixel that runs or does not.
    env.pixels([
        "network",
        "set",
        &name,
        "allowlist",
        "--allow",
        "other.test",
    ])
    .ok();
    holds(&name, "other.test");
    env.pixels(["checkpoint", "restore", &name, "first"]).ok();
    holds(&name, "allowed.test");
    env.pixels(["stop", &name]).ok();
    env.pixels([
        "network",
        "set",
        &name,
        "allowlist",
        "--allow",
        "other.test",
    ])
    .ok();
    env.pixels(["start", &name]).ok();
    holds(&name, "other.test");
    env.pixels(["stop", &name]).ok();
    env.pixels(["checkpoint", "restore", &name, "first"]).ok();
    env.pixels(["start", &name]).ok();
    holds(&name, "allowed.test");

    // Behind a gateway, the gateway is all there is.
    let behind = env.name("behind");
    let args = ["create", &behind, "--from", &origin];
    let made = env
        .command(args)
        .env("PIXELS_NETWORK_PLACEMENT", "gateway")
        .output();
    assert!(made.unwrap().status.success());
    let shown = env
        .pixels(["network", "show", &behind, "--json"])
        .ok()
        .json();
    assert_eq!(shown["enforced_by"], "gateway");
    sh(&env, &behind, "nft list table inet pixels").expect(1);
    sh(
        &env,
        &behind,
        "ls /etc/systemd/system/pixels-egress.service",
    )
    .expect(2);
}

#[test]
#[ignore = "needs Incus"]
fn invalid_ruleset_keeps_network_down() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-closed", wan, "");
    let name = env.name("box");
    create(&env, &name, &["allowed.test"]);
    answers(&env, &name, "allowed.test");
    sh(&env, &name, "echo no rule >>/var/lib/pixels/egress/ruleset").ok();
    // By the daemon, as after a boot of the host.
    let restart = json!({"action": "restart", "force": true, "timeout": 30});
    let state = format!("/1.0/instances/px-{name}/state");
    Server::shared().done("PUT", &state, &restart);
    wait::eventually("it has booted", || {
        let state = sh(&env, &name, "systemctl is-system-running");
        ["degraded\n", "running\n"].contains(&state.stdout.as_str())
    });
    let state = "systemctl is-active pixels-egress systemd-networkd pixels-resolver; ip -4 -o addr show eth0 scope global";
    let seen = sh(&env, &name, state).stdout;
    assert_eq!(seen, "failed\ninactive\ninactive\n");
    // `pixels start` repairs the files first.
    env.pixels(["stop", &name]).ok();
    env.pixels(["start", &name]).ok();
    answers(&env, &name, "allowed.test");
    assert_eq!(really(&env, &name), ["allowed.test"]);
}

#[test]
#[ignore = "needs Incus"]
fn policy_without_nft_is_refused() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-unable", wan, "");
    let source = env.name("source");
    env.pixels(["create", &source]).ok();
    sh(
        &env,
        &source,
        "rm /usr/sbin/nft; mv /usr/bin/apt-get /usr/bin/no-apt",
    )
    .ok();
    let reported = env
        .pixels(["network", "set", &source, "agent", "--json"])
        .expect(1)
        .error();
    let message = reported["message"].as_str().unwrap();
    assert!(message.contains("no apt-get"), "{message}");
    assert_eq!(reported["kind"], "unsupported");
    let shown = env
        .pixels(["network", "show", &source, "--json"])
        .ok()
        .json();
    assert_eq!(shown["mode"], "unrestricted");
    assert_eq!(shown["enforced_by"], json!(null));
    // Nothing of the attempt keeps the network from coming up.
    sh(
        &env,
        &source,
        "systemctl restart systemd-networkd && [ ! -e /etc/systemd/system/pixels-egress.service ]",
    )
    .ok();

    let clone = env.name("clone");
    let reported = env
        .pixels(["create", &clone, "--from", &source, "--egress", "agent"])
        .expect(1);
    assert!(
        reported.stderr.contains("pixels network set"),
        "{}",
        reported.stderr
    );
    assert_eq!(env.remaining(), std::slice::from_ref(&source));
    env.pixels(["stop", &source]).ok();
    env.pixels(["network", "set", &source, "agent"]).expect(1);
    env.pixels(["start", &source]).ok();
    let shown = env
        .pixels(["network", "show", &source, "--json"])
        .ok()
        .json();
    assert_eq!(shown["mode"], "unrestricted");
}
