//! Provisioning leases on a real daemon: they end with the command that
//! provisions the pixel, and are not part of checkpoints and clones.

use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};

use crate::egress_gateway::Stream;
use crate::egress_pixel::{inside, sh};
use crate::support::env::{TestEnv, finished};
use crate::support::lab;
use crate::support::mcp::{McpServer, sandbox_prefix, text};
use crate::support::wait::{eventually, until, within};
use crate::support::walls::Walls;
use crate::support::wan::Wan;
use crate::support::wan_pixel;

/// A host of the preset.
const PRESET: &str = "api.openai.com";

/// Asks the gateway for [`PRESET`] over one socket, and writes the numbers of
/// queries and answers to `/run/flow`.
const FLOW: &str = r#"
use Socket;
socket(S, PF_INET, SOCK_DGRAM, 17);
connect(S, sockaddr_in(53, inet_aton($ARGV[0])));
$name = join("", map { chr(length) . $_ } split(/\./, $ARGV[1])) . "\0";
$query = pack("n6", 1, 0x100, 1, 0, 0, 0) . $name . pack("n2", 1, 1);
while (1) {
    send(S, $query, 0);
    $asked++;
    vec($ready = "", fileno(S), 1) = 1;
    if (select($ready, undef, undef, 0.2)) {
        $answered++ if defined(recv(S, $answer, 512, 0)) && !(ord(substr($answer, 3)) & 15);
        select(undef, undef, undef, 0.2);
    }
    open(F, ">/run/flow.new"); print F "$asked $answered\n"; close(F);
    rename("/run/flow.new", "/run/flow");
}
"#;

/// Provisions pixels with a step that runs until `/run/go` exists.
fn provision_until_go(env: &mut TestEnv, config: &str) {
    let script = env.home().join("step.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\nuntil [ -e /run/go ]; do sleep 0.2; done\n",
    )
    .unwrap();
    env.config(&format!(
        "{config}[provision]\ndevtools = false\nscript = {script:?}\n\
         [console]\nmultiplexer = \"none\"\n"
    ));
    env.set("PIXELS_PROVISION_ENABLED", "true");
}

fn lease(env: &TestEnv, pixel: &str) -> Option<Value> {
    let shown = env.pixels(["network", "show", pixel, "--json"]);
    let shown = (shown.code == 0).then(|| shown.json())?;
    let preset = shown["in_force"]
        .as_array()
        .unwrap()
        .contains(&json!(PRESET));
    assert_eq!(preset, shown["lease_until"].is_string(), "{shown}");
    preset.then(|| shown["lease_until"].clone())
}

/// Starts to create a pixel, and waits for its lease and its steps.
fn create(env: &TestEnv, pixel: &str) -> Child {
    let policy = ["--egress", "allowlist", "--allow", "allowed.test"];
    let mut create = env.start([&["create", pixel], &policy[..]].concat());
    let rows = || env.pixels(["list", "--json"]).ok().json();
    let running = |row: &Value| row["name"] == pixel && row["provision"] == "running";
    let mut ended = false;
    eventually("the pixel has a lease, and its steps run", || {
        ended = create.try_wait().unwrap().is_some();
        // Before the steps, pixels restarts the resolver in the pixel.
        ended || lease(env, pixel).is_some() && rows().as_array().unwrap().iter().any(running)
    });
    if ended {
        let outcome = finished(create, Duration::from_secs(1));
        panic!("`create` ended before its steps: {outcome:?}");
    }
    create
}

fn kill(mut command: Child) {
    command.kill().unwrap();
    command.wait().unwrap();
}

/// The numbers of queries and answers of [`FLOW`].
fn flow(walls: &Walls, pixel: &str) -> (u32, u32) {
    let printed = walls.sh(pixel, "cat /run/flow").stdout;
    let mut numbers = printed.split_whitespace().flat_map(str::parse);
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
#[ignore = "needs Incus"]
fn lease_ends_after_kill_and_is_not_in_clones_and_checkpoints() {
    lab::ready();
    let mut walls = Walls::new("lea", Wan::any());
    walls.wan.name("allowed.test", &[10]);
    walls.wan.name(PRESET, &[20]);
    let dns = format!("[defaults]\ndns = [\"{}\"]\n", walls.wan.resolver());
    provision_until_go(&mut walls.env, &dns);
    let env = &walls.env;
    let address = walls.wan.address(20).to_string();
    let denied = |pixel: &str| {
        assert!(!walls.reaches(pixel, PRESET, 443));
        assert!(!walls.reaches(pixel, &address, 443));
        assert_eq!(lease(env, pixel), None);
    };

    let a = env.name("a");
    let creation = create(env, &a);
    walls.comes_to_reach(&a, PRESET, 443);
    let cut = Stream::open(&walls, &a, PRESET);
    let kept = Stream::open(&walls, &a, "allowed.test");
    let gateway = walls.gateway().address;
    let script =
        format!("cat >/run/flow.pl; perl /run/flow.pl {gateway} {PRESET} >/dev/null 2>&1 &");
    let args = ["exec", "-u", "root", &a, "--", "sh", "-c", &script];
    env.pixels_with(args, FLOW.as_bytes()).ok();
    eventually("the resolver answers", || flow(&walls, &a).1 > 2);

    // All commands report the lease.
    let check = ["network", "check", &a, PRESET, "--json"];
    let checked = env.pixels(check).ok().json();
    assert_eq!(checked["allowed"], true);
    assert!(checked["lease_until"].is_string(), "{checked}");
    assert!(env.listed(&a)["lease_until"].is_string());
    let status = env.pixels(["status", &a, "--json"]).ok().json();
    assert!(status["lease_until"].is_string(), "{status}");

    // The clone runs while the lease of its source is in force.
    env.checkpoint(&a, "mid");
    kill(creation);
    let (b, from) = (env.name("b"), format!("{a}:mid"));
    env.pixels(["create", &b, "--from", &from]).ok();
    walls.comes_to_reach(&b, "allowed.test", 443);
    denied(&b);
    // Earlier versions recorded a second policy for provisioning.
    let record = json!({"version": 1, "mode": "agent"}).to_string();
    let config = json!({"config": {"user.pixels.egress-interim": record}});
    let path = format!("/1.0/instances/px-{b}");
    walls.server.call("PATCH", &path, &config).unwrap();
    env.pixels(["network", "allow", &b, "x.test"]).ok();
    walls.comes_to_reach(&b, "allowed.test", 443);
    denied(&b);

    let ends = || lease(env, &a).is_none();
    assert!(
        within(Duration::from_secs(90), ends),
        "the lease did not end"
    );
    cut.ends();
    kept.goes_on();
    denied(&a);
    env.pixels(check).expect(1);
    assert_eq!(env.listed(&a)["lease_until"], Value::Null);
    let status = env.pixels(["status", &a]).ok().stderr;
    assert!(
        status.contains(&format!("pixels provision {a}")),
        "{status}"
    );
    // A DNS flow that is older than the end of the lease gets no answers.
    walls.wan.forget();
    let before = flow(&walls, &a);
    eventually("the pixel sends queries", || {
        flow(&walls, &a).0 > before.0 + 10
    });
    assert_eq!(flow(&walls, &a).1, before.1);
    assert!(!walls.wan.saw("openai"));

    env.pixels(["checkpoint", "restore", &a, "mid"]).ok();
    walls.comes_to_reach(&a, "allowed.test", 443);
    denied(&a);
    let orphans = env.prune(&["--dry-run"]);
    assert!(!orphans.iter().any(|it| it.contains(&a)), "{orphans:?}");

    // `provision` gets a new lease. A policy change ends it, also while the
    // command prepares the steps.
    let provision = env.start(["provision", &a]);
    until("the pixel has a lease", || lease(env, &a));
    walls.comes_to_reach(&a, PRESET, 443);
    env.pixels(["network", "allow", &a, "x.test"]).ok();
    denied(&a);
    walls.sh(&a, "touch /run/go").ok();
    finished(provision, Duration::from_secs(60)).ok();
    // The end of provisioning ends the lease.
    env.pixels(["provision", &a]).ok();
    denied(&a);
}

#[test]
#[ignore = "needs Incus"]
fn lease_ends_after_restart_of_pixel_and_kill_of_mcp_server() {
    lab::ready();
    let mut walls = Walls::new("leb", Wan::any());
    walls.wan.name("allowed.test", &[10]);
    walls.wan.name(PRESET, &[20]);
    let dns = format!("[defaults]\ndns = [\"{}\"]\n", walls.wan.resolver());
    provision_until_go(&mut walls.env, &dns);
    let prefix = sandbox_prefix(&walls.env);
    walls
        .env
        .set("PIXELS_MCP_PREFIX", &prefix)
        .set("PIXELS_MCP_LISTEN_ADDR", "127.0.0.1:0");
    let env = &walls.env;
    // Shorter than a renewed lease, 60 seconds.
    let limit = Duration::from_secs(40);
    let assert_lease_ends = |pixel: &str| {
        let address = walls.place(pixel).address;
        let element = format!("element inet pixels provisioning {{ {address}");
        let shorten = format!("nft 'delete {element} }}; add {element} timeout 3s }}'");
        walls
            .server
            .run(&walls.gateway_name(), &["sh", "-c", &shorten]);
        assert!(
            within(limit, || lease(env, pixel).is_none()),
            "the lease did not end"
        );
        walls.comes_to_reach(pixel, "allowed.test", 443);
        assert!(!walls.reaches(pixel, PRESET, 443));
        let address = walls.wan.address(20).to_string();
        assert!(!walls.reaches(pixel, &address, 443));
    };

    let server = McpServer::start(env);
    let policy = json!({"egress": "allowlist", "allow": ["allowed.test"], "wait_sec": 0});
    let sandbox = text(&server.client().call("create_sandbox", policy)["name"]);
    until("the sandbox has a lease", || lease(env, &sandbox));
    walls.comes_to_reach(&sandbox, PRESET, 443);
    server.kill();
    assert_lease_ends(&sandbox);

    let pixel = env.name("a");
    let creation = create(env, &pixel);
    walls.comes_to_reach(&pixel, PRESET, 443);
    kill(creation);
    env.pixels(["stop", "--force", &pixel]).ok();
    env.pixels(["start", &pixel]).ok();
    assert_lease_ends(&pixel);
}

#[test]
#[ignore = "needs Incus"]
fn lease_inside_pixel_ends_without_renewal_and_is_not_in_checkpoints() {
    lab::ready();
    let wan = wan_pixel::Wan::up();
    let mut env = inside("pixel-lease", wan, "");
    let config = format!(
        "[network]\nplacement = \"pixel\"\n[defaults]\ndns = [\"{}\"]\n",
        wan.resolver()
    );
    provision_until_go(&mut env, &config);
    let env = &env;
    let reaches = |pixel: &str, host: &str| {
        let script = format!("timeout 5 head -n 1 </dev/tcp/{host}/80");
        sh(env, pixel, &script).stdout.trim() == "hello"
    };
    let comes_to_reach = |pixel: &str, host: &str| {
        eventually(&format!("{pixel} reaches {host}"), || reaches(pixel, host));
    };
    let denied = |pixel: &str| {
        comes_to_reach(pixel, "allowed.test");
        assert!(!reaches(pixel, PRESET));
        assert!(!reaches(pixel, &wan.address(11)));
        assert_eq!(lease(env, pixel), None);
    };

    let a = env.name("a");
    let creation = create(env, &a);
    comes_to_reach(&a, PRESET);
    comes_to_reach(&a, "allowed.test");
    assert!(env.listed(&a)["lease_until"].is_string());
    env.checkpoint(&a, "mid");
    kill(creation);
    let (b, from) = (env.name("b"), format!("{a}:mid"));
    env.pixels(["create", &b, "--from", &from]).ok();
    denied(&b);

    // Shortens the rest of the lease.
    let element = "element inet pixels provisioning { ipv4";
    let shorten = format!("nft 'delete {element} }}; add {element} timeout 2s }}'");
    env.pixels(["exec", "-u", "root", &a, "--", "sh", "-c", &shorten])
        .ok();
    eventually("the lease ends", || lease(env, &a).is_none());
    denied(&a);
    env.pixels(["checkpoint", "restore", &a, "mid"]).ok();
    denied(&a);

    let provision = env.start(["provision", &a]);
    until("the pixel has a lease", || lease(env, &a));
    comes_to_reach(&a, PRESET);
    env.pixels(["exec", "-u", "root", &a, "--", "touch", "/run/go"])
        .ok();
    finished(provision, Duration::from_secs(60)).ok();
    denied(&a);
}
