//! Checks of this machine, which say nothing about a remote server's.

use super::{Check, Clock, Facts, Machine, Status};
use crate::host::facts::{INOTIFY_ENOUGH, INOTIFY_GOOD, LocalFacts};
use crate::host::subid;

/// Identifier and title of every check here, in order.
const ALL: &[(&str, &str)] = &[
    ("subids", "user ids for containers"),
    ("namespaces", "unprivileged containers"),
    ("forwarding", "IP forwarding"),
    ("bridge-filter", "bridged traffic and the host's firewall"),
    ("kernel-limits", "what all pixels share of the kernel"),
    ("lxcfs", "limits as pixels see them"),
];

/// A systemd pixel keeps about four in its user's name.
const KEYS_ENOUGH: u64 = 200;

/// Further off than this, certificates and tokens begin to fail.
const CLOCK_TOLERANCE: i64 = 300;

pub fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks: Vec<Check> = match (&facts.host.local, &facts.machine) {
        (Some(local), Some(machine)) if local.linux => {
            let has_network = facts
                .host
                .server
                .facts()
                .is_some_and(|server| server.usable_network(None).is_some());
            let judged = [
                subids(local, facts.host.is_reached()),
                namespaces(local, machine),
                forwarding(machine, has_network),
                bridge_filter(machine),
                kernel_limits(machine),
                lxcfs(local),
            ];
            ALL.iter()
                .zip(judged)
                .map(|((id, title), (status, detail, fix))| Check {
                    fix,
                    ..Check::new(id, title, status, detail)
                })
                .collect()
        }
        _ => ALL
            .iter()
            .map(|(id, title)| {
                let detail = "Incus runs on another machine";
                Check::new(id, title, Status::Skipped, detail)
            })
            .collect(),
    };
    checks.push(clock(facts.clock));
    checks
}

type Verdict = (Status, String, Option<String>);

fn subids(local: &LocalFacts, daemon_answers: bool) -> Verdict {
    let (uids, gids) = (
        subid::root_range(&local.subuid),
        subid::root_range(&local.subgid),
    );
    if uids >= subid::MINIMUM && gids >= subid::MINIMUM {
        return (
            Status::Ok,
            format!("root may give out {uids} user and {gids} group ids"),
            None,
        );
    }
    if daemon_answers && local.subuid.is_empty() && local.subgid.is_empty() {
        let detail = "neither /etc/subuid nor /etc/subgid: Incus uses its own range";
        return (Status::Ok, detail.into(), None);
    }
    (
        Status::Problem,
        "root has no range of ids in /etc/subuid and /etc/subgid".into(),
        Some("sudo pixels setup, then restart Incus".into()),
    )
}

fn namespaces(local: &LocalFacts, machine: &Machine) -> Verdict {
    if machine.user_namespaces == Some(0) {
        return (
            Status::Problem,
            "the kernel allows no user namespaces".into(),
            Some("sudo sysctl -w user.max_user_namespaces=15000".into()),
        );
    }
    if local.id_limit < 2 * subid::MINIMUM {
        return (
            Status::Problem,
            format!("only {} user ids exist here", local.id_limit),
            Some("give this container a larger id range".into()),
        );
    }
    (Status::Ok, "possible".into(), None)
}

fn forwarding(machine: &Machine, has_network: bool) -> Verdict {
    match (machine.ip_forward, has_network) {
        (true, _) => (Status::Ok, "on".into(), None),
        (false, false) => (
            Status::Skipped,
            "off: Incus turns it on with its first bridge".into(),
            None,
        ),
        (false, true) => (
            Status::Problem,
            "off: pixels reach no network".into(),
            Some("sudo sysctl -w net.ipv4.ip_forward=1".into()),
        ),
    }
}

fn bridge_filter(machine: &Machine) -> Verdict {
    if !machine.bridge_calls_iptables {
        return (Status::Ok, "kept apart".into(), None);
    }
    (
        Status::Warning,
        "bridge-nf-call-iptables is 1: traffic within a bridge passes the host's firewall too, \
         and connections from this host to a pixel's address are lost; \
         `pixels exec`, `console` and `forward` work all the same"
            .into(),
        Some(
            "sudo sysctl -w net.bridge.bridge-nf-call-iptables=0 (not where Docker or Kubernetes \
             networks rely on it)"
                .into(),
        ),
    )
}

/// Both are counted per user of the host. The daemon is one user, and so are
/// all pixels without user ids of their own.
fn kernel_limits(machine: &Machine) -> Verdict {
    let few = |(limit, enough): (Option<u64>, u64)| limit.filter(|limit| *limit < enough);
    if let Some(limit) = few((machine.inotify, INOTIFY_ENOUGH)) {
        return (
            Status::Warning,
            format!("fs.inotify.max_user_instances is {limit}: about twenty pixels use that up"),
            Some(format!(
                "sudo sysctl -w fs.inotify.max_user_instances={INOTIFY_GOOD}"
            )),
        );
    }
    if let Some(limit) = few((machine.keys, KEYS_ENOUGH)) {
        return (
            Status::Warning,
            format!(
                "kernel.keys.maxkeys is {limit}: about fifty pixels use that up where the server \
                 cannot give each its own user ids"
            ),
            Some("sudo sysctl -w kernel.keys.maxkeys=2000".into()),
        );
    }
    (Status::Ok, "enough for many pixels".into(), None)
}

fn lxcfs(local: &LocalFacts) -> Verdict {
    if local.lxcfs_mounted {
        return (Status::Ok, "lxcfs shows them".into(), None);
    }
    let fix = match (local.fuse, local.systemd) {
        (false, _) => None,
        (true, true) => Some("sudo systemctl enable --now lxcfs, then restart the pixels".into()),
        (true, false) => Some("sudo setsid lxcfs /var/lib/lxcfs &, then restart the pixels".into()),
    };
    (
        Status::Warning,
        "lxcfs does not run: limits hold, and programs in a pixel see the host's memory and CPUs"
            .into(),
        fix,
    )
}

fn clock(clock: Clock) -> Check {
    let check = |status, detail: String| Check::new("clock", "clock", status, detail);
    let wrong = |detail: String| {
        check(Status::Warning, detail)
            .fix("set the clock, for example: sudo timedatectl set-ntp true")
    };
    match clock {
        Clock::Unknown => check(Status::Skipped, "nothing to compare it with".into()),
        Clock::Against(ahead) if ahead > CLOCK_TOLERANCE => {
            wrong(format!("{ahead} s ahead of the image server's"))
        }
        Clock::Against(ahead) if ahead < -CLOCK_TOLERANCE => {
            wrong(format!("{} s behind the image server's", -ahead))
        }
        Clock::Against(_) => check(Status::Ok, "agrees with the image server's".into()),
        Clock::BehindFiles(behind) if behind > CLOCK_TOLERANCE => {
            wrong(format!("{behind} s behind files of this machine"))
        }
        Clock::BehindFiles(_) => check(Status::Ok, "not behind any file of this machine".into()),
    }
}
