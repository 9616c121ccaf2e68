//! Commands whose gateway is stopped or missing, and changes of policies that are
//! interrupted.

use crate::support::env::spawn;
use crate::support::lab;
use crate::support::private_daemon::PrivateDaemon;
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::eventually;
use crate::support::walls::Walls;
use crate::support::wan::Wan;

#[test]
#[ignore = "needs Incus"]
fn restore_without_gateway_changes_nothing() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    let env = daemon.isolated("gone");
    let name = env.create("a");
    let policy = || env.pixels(["network", "show", &name, "--json"]).json();
    env.checkpoint(&name, "open");
    env.pixels(["network", "set", &name, "allowlist"]).ok();
    env.checkpoint(&name, "isolated");
    env.pixels(["exec", &name, "--", "touch", "/root/later"])
        .ok();
    let before = policy();

    let gateway = daemon.gateway();
    daemon.stop_gateway();
    let refused = |label: &str, state: &str| {
        let restore = ["checkpoint", "restore", &name, label];
        let outcome = env.pixels(restore).expect(1);
        let reported = format!("the gateway {gateway} is {state}");
        outcome.reports(&reported).reports("gateway rebuild");
        assert_eq!(policy(), before, "{label}");
        env.pixels(["exec", &name, "--", "test", "-e", "/root/later"])
            .ok();
    };
    // Restores a checkpoint with another policy and one with the same policy.
    refused("open", "stopped");
    refused("isolated", "stopped");
    daemon.delete_gateway();
    refused("open", "missing");
    refused("isolated", "missing");

    env.pixels(["network", "gateway", "rebuild"]).ok();
    env.pixels(["checkpoint", "restore", &name, "isolated"])
        .ok();
    env.pixels(["exec", &name, "--", "test", "-e", "/root/later"])
        .expect(1);
    assert_eq!(policy(), before);
}

/// A change of a policy that is interrupted, or that fails after the gateway has
/// applied it, leaves no pixel with more access than recorded.
#[test]
#[ignore = "needs Incus"]
fn interrupted_changes_leave_recorded_policies_in_force() {
    lab::ready();
    let walls = Walls::new("halfset", Wan::any());
    walls.wan.name("allowed.test", &[10]);
    walls.wan.name("other.test", &[20]);
    let narrowed = walls.create("a", "unrestricted", &[]);
    let neighbor = walls.create("b", "unrestricted", &[]);
    walls.comes_to_reach(&narrowed, "other.test", 80);
    let shown = || walls.env.pixels(["network", "show", &narrowed, "--json"]);
    let mode = || shown().json()["mode"].clone();
    let set = |pixel: &str, policy: &str| {
        let words = ["network", "set", pixel].into_iter();
        words
            .chain(policy.split(' '))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };

    // Killed after the policy is recorded, before the gateway has it.
    let proxy = Proxy::start();
    let record = format!("PATCH /1.0/instances/px-{narrowed}*");
    proxy.on(&record, 0, Fault::StallAfterRequest);
    let narrow = set(&narrowed, "allowlist --allow allowed.test");
    let mut command = walls.env.command(narrow);
    command.env("PIXELS_INCUS_SOCKET", proxy.socket());
    let mut killed = spawn(&mut command);
    eventually("the policy is recorded", || mode() == "allowlist");
    killed.kill().unwrap();
    killed.wait().unwrap();
    // A change of another pixel's policy uses the records that the gateway knows.
    let other = set(&neighbor, "allowlist --allow other.test");
    walls.env.pixels(other).ok();
    assert!(!walls.reaches(&narrowed, "other.test", 80));
    walls.comes_to_reach(&narrowed, "allowed.test", 80);

    // Fails after the gateway has loaded the new rules: the first stop of the
    // resolver of the policy that nothing uses any more.
    let fail_once = r#"
        cat >/usr/local/bin/systemctl <<'END'
#!/bin/sh
case $1:$2 in stop:pixels-resolver@*) rm "$0"; exit 1 ;; esac
exec /usr/bin/systemctl "$@"
END
        chmod +x /usr/local/bin/systemctl; echo done"#;
    let fail_once = ["sh", "-c", fail_once];
    let printed = walls.server.run(&walls.gateway_name(), &fail_once);
    assert_eq!(printed, "done\n");
    let failed = walls.env.pixels(set(&narrowed, "unrestricted")).expect(1);
    let gone = ["sh", "-c", "[ -e /usr/local/bin/systemctl ] || echo gone"];
    let printed = walls.server.run(&walls.gateway_name(), &gone);
    assert_eq!(printed, "gone\n", "{failed:?}");
    assert_eq!(mode(), "allowlist");
    assert!(!walls.reaches(&narrowed, "other.test", 80));
    // The gateway forgot the address, which the pixel may still have cached.
    walls.sh(&narrowed, "resolvectl flush-caches").ok();
    walls.comes_to_reach(&narrowed, "allowed.test", 80);
}

/// A policy wider than the present one is only applied to the disk of the checkpoint.
#[test]
#[ignore = "needs Incus"]
fn present_disk_does_not_get_policy_of_restored_checkpoint() {
    lab::ready();
    let walls = Walls::new("stale", Wan::any());
    let name = walls.create("a", "unrestricted", &[]);
    let address = walls.wan.address(22).to_string();
    walls.env.checkpoint(&name, "open");
    walls
        .env
        .pixels(["network", "set", &name, "allowlist"])
        .ok();
    let send = format!(
        "exec perl -MSocket -e 'socket S,2,2,0; while (1) {{ send S, q(pxstaleq), 0, \
         pack_sockaddr_in 4433, inet_aton q({address}); select undef, undef, undef, 0.002 }}'"
    );
    let mut sender = walls.env.spawn(["exec", &name, "--", "sh", "-c", &send]);
    let sends = "pgrep -f pxstale[q] >/dev/null";
    eventually("the pixel sends to the address", || {
        walls.sh(&name, sends).code == 0
    });
    walls
        .env
        .pixels(["checkpoint", "restore", &name, "open"])
        .ok();
    let _ = sender.kill();
    let _ = sender.wait();
    assert!(!walls.wan.saw("pxstaleq"));
    let open = format!("echo pxopenq >/dev/udp/{address}/4433");
    eventually("the pixel reaches the address", || {
        let _ = walls.env.pixels(["exec", &name, "--", "bash", "-c", &open]);
        walls.wan.saw("pxopenq")
    });
}
