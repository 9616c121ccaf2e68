//! Steps on this machine: packages, id ranges, the daemon.

use std::path::{Path, PathBuf};

use super::step::{Action, Plan, Step, StepId};
use crate::host::INCUS_DIR;
use crate::host::command::CommandLine;
use crate::host::facts::{INOTIFY, INOTIFY_ENOUGH, INOTIFY_GOOD, LocalFacts};
use crate::host::{apt_sources, packages as table, subid};

const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/pixels-backports.sources";
const LXCFS_DIR: &str = "/var/lib/lxcfs";
/// Where Debian's package puts it.
const INCUSD: &str = "/usr/libexec/incus/incusd";
const ADMIN_GROUP: &str = "incus-admin";

/// Where apt gets Incus from.
#[derive(Debug, PartialEq, Eq)]
enum Incus {
    /// The sources as they are.
    Here,
    /// A suite the sources name already.
    Suite(String),
    /// A suite of the same mirror, not named yet.
    Add {
        suite: String,
        file: String,
    },
    Nowhere,
}

fn incus(local: &LocalFacts) -> Incus {
    let os = &local.os;
    let suite = format!("{}-backports", os.codename);
    if os.id == "debian" && os.codename == "bookworm" {
        if local.sources.iter().any(|source| source.has_suite(&suite)) {
            return Incus::Suite(suite);
        }
        if local.apt_has_incus {
            return Incus::Here;
        }
        return match apt_sources::backports(&local.sources, &os.codename) {
            Some(file) => Incus::Add { suite, file },
            None => Incus::Nowhere,
        };
    }
    let has = match (os.id.as_str(), os.version()) {
        ("debian", version) => version.is_none_or(|v| v >= (13, 0)),
        ("ubuntu", version) => version.is_none_or(|v| v >= (24, 4)),
        _ => false,
    };
    if has || local.apt_has_incus {
        Incus::Here
    } else {
        Incus::Nowhere
    }
}

pub fn packages(plan: &mut Plan, local: &LocalFacts, missing: &[&'static str]) {
    if missing.is_empty() {
        return;
    }
    let reason = format!("missing: {}", missing.join(", "));
    let needs_incus = missing.contains(&table::INCUS);
    let suite = match incus(local) {
        _ if !local.linux => {
            return blocked(
                plan,
                &reason,
                "Incus runs on Linux, and this is another system",
                "set incus.remote to an Incus server, or run pixels on a Linux machine",
            );
        }
        _ if !local.apt => {
            return blocked(
                plan,
                &reason,
                &format!("only apt is known here, and {} has none", local.os.pretty),
                "install these with the system's own package manager: Incus 6.0 or newer, \
                 btrfs-progs, nftables, dnsmasq, lxcfs",
            );
        }
        Incus::Nowhere if needs_incus => {
            return blocked(
                plan,
                &reason,
                &format!("the package sources of {} offer no Incus", local.os.pretty),
                "add a source of Incus 6.0 or newer for this system to apt, then run this again",
            );
        }
        Incus::Nowhere | Incus::Here => None,
        Incus::Suite(suite) => Some(suite),
        Incus::Add { suite, file } if needs_incus => {
            plan.steps.push(Step {
                id: StepId::Backports,
                title: format!("add {suite} to the package sources"),
                reason: format!("{} itself has no Incus", local.os.pretty),
                action: Action::NewFile {
                    path: BACKPORTS_FILE.into(),
                    content: format!("# Added by `pixels setup`, for Incus.\n{file}"),
                },
            });
            Some(suite)
        }
        Incus::Add { .. } => None,
    };
    if !local.unfinished.is_empty() {
        plan.steps.push(Step {
            id: StepId::Repair,
            title: "finish an interrupted package installation".into(),
            reason: format!("half installed: {}", local.unfinished.join(", ")),
            action: Action::Run {
                commands: vec![
                    CommandLine::new("dpkg", ["--configure", "-a"])
                        .env("DEBIAN_FRONTEND", "noninteractive")
                        .finish_when_dropped(),
                ],
            },
        });
    }
    plan.steps.push(Step {
        id: StepId::Packages,
        title: format!("install {}", missing.join(", ")),
        reason,
        action: Action::Run {
            commands: vec![
                apt(["update"]),
                apt(["install", "-y", "--no-install-recommends"]
                    .into_iter()
                    .chain(suite.iter().flat_map(|suite| ["-t", suite]))
                    .chain(missing.iter().copied())),
            ],
        },
    });
}

fn apt<'a>(args: impl IntoIterator<Item = &'a str>) -> CommandLine {
    let quiet = [
        "-q",
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "DPkg::Lock::Timeout=600",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
    ];
    CommandLine::new("apt-get", quiet.into_iter().chain(args))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .finish_when_dropped()
}

fn blocked(plan: &mut Plan, reason: &str, missing: &str, fix: &str) {
    plan.steps.push(Step {
        id: StepId::Packages,
        title: "install what is missing".into(),
        reason: reason.to_owned(),
        action: Action::Blocked {
            missing: missing.to_owned(),
            fix: fix.to_owned(),
        },
    });
}

pub fn subids(plan: &mut Plan, local: &LocalFacts, daemon_runs: bool) {
    // Without either file Incus uses a range of its own.
    let neither = local.subuid.is_empty() && local.subgid.is_empty();
    if !local.linux || neither && daemon_runs {
        return;
    }
    let files = [
        (StepId::Subuid, "/etc/subuid", &local.subuid),
        (StepId::Subgid, "/etc/subgid", &local.subgid),
    ];
    for (id, path, text) in files {
        if subid::root_range(text) >= subid::MINIMUM {
            continue;
        }
        let action = match subid::line_for_root(text, local.id_limit) {
            Some(line) => Action::AppendLine {
                path: path.into(),
                line,
            },
            None => Action::Blocked {
                missing: format!(
                    "this machine has only {} user ids, too few to give containers their own",
                    local.id_limit
                ),
                fix: "give this container a larger id range, or nesting with one of its own".into(),
            },
        };
        plan.steps.push(Step {
            id,
            title: format!("give root a range of ids in {path}"),
            reason: if daemon_runs {
                "unprivileged containers take theirs from it; restart Incus afterwards".into()
            } else {
                "unprivileged containers take theirs from it".into()
            },
            action,
        });
    }
}

/// The daemon and every pixel that shares user ids with others take from one
/// count of inotify instances; with the kernel's usual 128, systemd in the
/// twentieth pixel cannot start.
pub fn inotify(plan: &mut Plan, local: &LocalFacts) {
    if local.inotify.is_none_or(|limit| limit >= INOTIFY_ENOUGH) {
        return;
    }
    let script = format!(
        "mkdir -p /etc/sysctl.d && \
         echo 'fs.inotify.max_user_instances = {INOTIFY_GOOD}' >/etc/sysctl.d/60-pixels.conf && \
         echo {INOTIFY_GOOD} >{INOTIFY}"
    );
    plan.steps.push(Step {
        id: StepId::Inotify,
        title: "raise the limit on inotify instances".into(),
        reason: "every pixel needs several, and the daemon some for each".into(),
        action: Action::Run {
            commands: vec![CommandLine::new("sh", ["-c".to_owned(), script])],
        },
    });
}

pub fn daemon(plan: &mut Plan, local: &LocalFacts, silence: &str) {
    if !local.linux {
        return;
    }
    if let Some(pid) = local.daemon_pid {
        plan.steps.push(Step {
            id: StepId::Daemon,
            title: "wait for Incus".into(),
            reason: "it has been started and does not answer yet".into(),
            action: Action::AwaitDaemon { pid },
        });
        return;
    }
    let standard = local.incus_dir == Path::new(INCUS_DIR);
    if local.systemd && standard {
        plan.steps.push(Step {
            id: StepId::Daemon,
            title: "start Incus".into(),
            reason: silence.to_owned(),
            action: Action::Run {
                commands: vec![CommandLine::new(
                    "systemctl",
                    ["enable", "--now", "incus.socket", "incus.service"],
                )],
            },
        });
        return;
    }
    if !local.lxcfs_mounted && local.fuse {
        plan.steps.push(Step {
            id: StepId::Lxcfs,
            title: "start lxcfs".into(),
            reason: "shows containers their own limits instead of the host's".into(),
            action: Action::Background {
                command: CommandLine::new("setsid", ["lxcfs", LXCFS_DIR]),
                log: "/var/log/lxcfs.log".into(),
            },
        });
    }
    let program = local.incusd.clone().unwrap_or_else(|| INCUSD.into());
    let logs = if standard {
        PathBuf::from("/var/log/incus")
    } else {
        local.incus_dir.join("logs")
    };
    let mut command = CommandLine::new("setsid", [program.to_string_lossy()]);
    // The package that is about to be installed makes the group.
    if local.admin_group || local.incusd.is_none() {
        command.args.extend(["--group".into(), ADMIN_GROUP.into()]);
    }
    let logfile = logs.join("incusd.log").to_string_lossy().into_owned();
    command.args.extend(["--logfile".into(), logfile]);
    if !standard {
        command = command.env("INCUS_DIR", local.incus_dir.to_string_lossy());
    }
    plan.steps.push(Step {
        id: StepId::Daemon,
        title: "start Incus".into(),
        reason: silence.to_owned(),
        action: Action::Background {
            command,
            log: logs.join("incusd.err"),
        },
    });
}
