//! Commands that need a gateway that is stopped or missing.

use crate::support::lab;
use crate::support::private_daemon::PrivateDaemon;

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
