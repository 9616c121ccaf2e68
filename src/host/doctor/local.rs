//! Checks of this machine. Skipped if Incus runs on a remote machine.

use super::{
    Check, Clock, Facts, Machine, Status, Verdict, all_skipped, checks, ok, problem, skipped,
    warning,
};
use crate::host::facts::LocalFacts;
use crate::host::kernel_limits::shorten;
use crate::host::subid;

/// Identifier and title of every check of the machine, in order.
const NAMES: &[(&str, &str)] = &[
    ("subids", "user ids for containers"),
    ("namespaces", "unprivileged containers"),
    ("forwarding", "IP forwarding"),
    ("bridge-filter", "firewall for bridged traffic"),
    ("kernel-limits", "kernel limits shared by all pixels"),
    ("lxcfs", "resource limits shown in pixels"),
];

/// Minimum number of kernel keys. A pixel with systemd uses about four.
const KEYS_MINIMUM: u64 = 200;

/// With a larger clock difference, certificates and tokens are rejected.
const CLOCK_TOLERANCE_SECONDS: i64 = 300;

pub fn check_machine(facts: &Facts) -> Vec<Check> {
    let (local, machine) = match (&facts.host.local, &facts.machine) {
        (Some(local), Some(machine)) if local.linux => (local, machine),
        _ => return all_skipped(NAMES, "Incus runs on another machine"),
    };
    let server = facts.host.server.facts();
    let has_network = server.is_some_and(|server| server.usable_network(None).is_some());
    let verdicts = [
        subids(local, server.is_some()),
        namespaces(local, machine),
        forwarding(machine, has_network),
        bridge_filter(machine),
        kernel_limits(local, machine),
        lxcfs(local),
    ];
    checks(NAMES, verdicts)
}

fn subids(local: &LocalFacts, daemon_runs: bool) -> Verdict {
    let (uids, gids) = (
        subid::root_range(&local.subuid),
        subid::root_range(&local.subgid),
    );
    if uids >= subid::MINIMUM && gids >= subid::MINIMUM {
        return ok(format!("root has {uids} user ids and {gids} group ids"));
    }
    if daemon_runs && local.subuid.is_empty() && local.subgid.is_empty() {
        return ok("no /etc/subuid and /etc/subgid: Incus uses its built-in range");
    }
    problem(
        "root has no id range in /etc/subuid and /etc/subgid",
        "sudo pixels setup, then restart Incus",
    )
}

fn namespaces(local: &LocalFacts, machine: &Machine) -> Verdict {
    if machine.user_namespaces == Some(0) {
        return problem(
            "the kernel allows no user namespaces",
            "sudo sysctl -w user.max_user_namespaces=15000",
        );
    }
    if local.id_limit < 2 * subid::MINIMUM {
        return problem(
            format!("this machine has only {} user ids", local.id_limit),
            "give this container a larger id range",
        );
    }
    ok("supported")
}

fn forwarding(machine: &Machine, has_network: bool) -> Verdict {
    match (machine.ip_forward, has_network) {
        (true, _) => ok("on"),
        (false, false) => skipped("off: Incus turns it on with its first bridge"),
        (false, true) => problem(
            "off: pixels reach no network",
            "sudo sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

fn bridge_filter(machine: &Machine) -> Verdict {
    if !machine.bridge_calls_iptables {
        return ok("does not filter bridged traffic");
    }
    warning(
        "bridge-nf-call-iptables is 1: the host's firewall also filters traffic within a bridge, \
         and connections from this host to a pixel's address fail; `pixels exec`, `console` and \
         `forward` are not affected",
        "sudo sysctl -w net.bridge.bridge-nf-call-iptables=0 (not if Docker or Kubernetes \
         networks depend on it)",
    )
}

fn kernel_limits(local: &LocalFacts, machine: &Machine) -> Verdict {
    let low: Vec<String> = local
        .kernel_limits
        .iter()
        .filter(|limit| limit.is_low())
        .filter_map(|limit| Some(format!("{} is {}", limit.key, limit.value?)))
        .collect();
    if !low.is_empty() {
        let detail = format!(
            "{}: one pixel can use this up for the host and all pixels",
            shorten(&low)
        );
        return warning(detail, "sudo pixels setup");
    }
    if let Some(limit) = machine.keys.filter(|limit| *limit < KEYS_MINIMUM) {
        return warning(
            format!(
                "kernel.keys.maxkeys is {limit}: enough for about fifty pixels if they share user \
                 ids"
            ),
            "sudo sysctl -w kernel.keys.maxkeys=2000",
        );
    }
    ok("enough for many pixels")
}

fn lxcfs(local: &LocalFacts) -> Verdict {
    if local.lxcfs_mounted {
        return ok("lxcfs is running");
    }
    let detail = "lxcfs is not running: limits are enforced, but programs in a pixel see the \
                  host's memory and CPUs";
    match (local.fuse, local.systemd) {
        (false, _) => (Status::Warning, detail.into(), None),
        (true, true) => warning(
            detail,
            "sudo systemctl enable --now lxcfs, then restart the pixels",
        ),
        (true, false) => warning(
            detail,
            "sudo setsid lxcfs /var/lib/lxcfs &, then restart the pixels",
        ),
    }
}

/// Checks the clock, even for remote servers.
pub fn check_clock(clock: Clock) -> Check {
    let check = |status, detail: String| Check::new("clock", "clock", status, detail);
    let wrong = |detail: String| {
        check(Status::Warning, detail)
            .fix("set the clock, for example: sudo timedatectl set-ntp true")
    };
    match clock {
        Clock::Unknown => check(Status::Skipped, "no other clock to compare with".into()),
        Clock::AheadOfServer(ahead) if ahead > CLOCK_TOLERANCE_SECONDS => {
            wrong(format!("{ahead} s ahead of the image server's clock"))
        }
        Clock::AheadOfServer(ahead) if ahead < -CLOCK_TOLERANCE_SECONDS => {
            wrong(format!("{} s behind the image server's clock", -ahead))
        }
        Clock::AheadOfServer(_) => check(Status::Ok, "agrees with the image server's clock".into()),
        Clock::BehindFiles(behind) if behind > CLOCK_TOLERANCE_SECONDS => {
            wrong(format!("{behind} s behind the time of a system file"))
        }
        Clock::BehindFiles(_) => check(Status::Ok, "not behind the times of system files".into()),
    }
}
