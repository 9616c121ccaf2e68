//! Steps on this machine: packages, id ranges, kernel limits, the daemon.

use std::path::{Path, PathBuf};

use super::step::{Action, Plan, StepId};
use crate::host::INCUS_DIR;
use crate::host::command::CommandLine;
use crate::host::facts::LocalFacts;
use crate::host::kernel_limits::{KernelLimit, SYSCTL_FILE, Setting, shorten};
use crate::host::packages::INCUS;
use crate::host::{apt_sources, subid};

const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/pixels-backports.sources";
const LXCFS_DIR: &str = "/var/lib/lxcfs";
/// Path of the daemon in Debian's package.
const INCUSD: &str = "/usr/libexec/incus/incusd";
const ADMIN_GROUP: &str = "incus-admin";

/// The apt source that contains Incus.
#[derive(Debug, PartialEq, Eq)]
enum IncusSource {
    /// The default suite of the configured sources.
    Default,
    /// A suite of the configured sources that apt uses only if requested.
    Suite(String),
    /// A suite that the configured mirror has but the sources lack.
    NewSuite {
        suite: String,
        sources: String,
    },
    Unavailable,
}

fn incus_source(local: &LocalFacts) -> IncusSource {
    let os = &local.os;
    if os.id == "debian" && os.codename == "bookworm" {
        let suite = format!("{}-backports", os.codename);
        if local.sources.iter().any(|source| source.has_suite(&suite)) {
            return IncusSource::Suite(suite);
        }
        if local.apt_has_incus {
            return IncusSource::Default;
        }
        return match apt_sources::backports(&local.sources, &os.codename) {
            Some(sources) => IncusSource::NewSuite { suite, sources },
            None => IncusSource::Unavailable,
        };
    }
    let release_has_incus = match (os.id.as_str(), os.version()) {
        ("debian", version) => version.is_none_or(|v| v >= (13, 0)),
        ("ubuntu", version) => version.is_none_or(|v| v >= (24, 4)),
        _ => false,
    };
    if release_has_incus || local.apt_has_incus {
        IncusSource::Default
    } else {
        IncusSource::Unavailable
    }
}

/// Adds the steps that install `missing` packages.
pub fn add_packages(plan: &mut Plan, local: &LocalFacts, missing: &[&'static str]) {
    if missing.is_empty() {
        return;
    }
    let reason = format!("missing: {}", missing.join(", "));
    let needs_incus = missing.contains(&INCUS);
    let mut blocked = |missing: &str, fix: &str| {
        let action = Action::blocked(missing, fix);
        plan.add(StepId::Packages, "install packages", &reason, action);
    };
    let suite = match incus_source(local) {
        _ if !local.linux => {
            return blocked(
                "Incus runs only on Linux",
                "set incus.remote to an Incus server, or run pixels on a Linux machine",
            );
        }
        _ if !local.apt => {
            return blocked(
                &format!(
                    "setup supports only apt, and {} has no apt",
                    local.os.pretty
                ),
                "install these with the package manager of the system: Incus 6.0 or newer, \
                 btrfs-progs, nftables, dnsmasq, lxcfs",
            );
        }
        IncusSource::Unavailable if needs_incus => {
            return blocked(
                &format!("the apt sources of {} have no Incus", local.os.pretty),
                "add an apt source with Incus 6.0 or newer, then run `pixels setup` again",
            );
        }
        IncusSource::Unavailable | IncusSource::Default => None,
        IncusSource::Suite(suite) => Some(suite),
        IncusSource::NewSuite { suite, sources } if needs_incus => {
            plan.add(
                StepId::Backports,
                format!("add {suite} to the apt sources"),
                format!("{} itself has no Incus", local.os.pretty),
                Action::NewFile {
                    path: BACKPORTS_FILE.into(),
                    content: format!("# Added by `pixels setup`, for Incus.\n{sources}"),
                },
            );
            Some(suite)
        }
        IncusSource::NewSuite { .. } => None,
    };
    if !local.unfinished.is_empty() {
        let command = CommandLine::new("dpkg", ["--configure", "-a"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .finish_when_dropped();
        plan.add(
            StepId::Repair,
            "finish an interrupted package installation",
            format!("not fully installed: {}", local.unfinished.join(", ")),
            Action::Run {
                commands: vec![command],
            },
        );
    }
    let install = ["install", "-y", "--no-install-recommends"]
        .into_iter()
        .chain(suite.iter().flat_map(|suite| ["-t", suite]))
        .chain(missing.iter().copied());
    plan.add(
        StepId::Packages,
        format!("install {}", missing.join(", ")),
        reason,
        Action::Run {
            commands: vec![apt_get(["update"]), apt_get(install)],
        },
    );
}

fn apt_get<'a>(args: impl IntoIterator<Item = &'a str>) -> CommandLine {
    let quiet = "-q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 \
                 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
    CommandLine::new("apt-get", quiet.split(' ').chain(args))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .finish_when_dropped()
}

/// Adds the steps that give root a range of subordinate ids.
pub fn add_subids(plan: &mut Plan, local: &LocalFacts, daemon_runs: bool) {
    // Incus has a built-in range if both files are missing.
    let no_files = local.subuid.is_empty() && local.subgid.is_empty();
    if !local.linux || no_files && daemon_runs {
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
            None => Action::blocked(
                format!(
                    "this machine has only {} user ids, too few for containers with their own ids",
                    local.id_limit
                ),
                "give this container a larger id range, or enable nesting for it",
            ),
        };
        let reason = if daemon_runs {
            "unprivileged containers get their ids from it; restart Incus afterwards"
        } else {
            "unprivileged containers get their ids from it"
        };
        plan.add(
            id,
            format!("give root an id range in {path}"),
            reason,
            action,
        );
    }
}

/// Adds the step that raises the kernel limits that one pixel could use up.
/// Limits that this process cannot raise result in a warning.
pub fn add_kernel_limits(plan: &mut Plan, local: &LocalFacts) {
    let low = || local.kernel_limits.iter().filter(|limit| limit.is_low());
    let is_possible = |limit: &&KernelLimit| limit.writable && limit.value.is_some();
    let fixed: Vec<String> = low()
        .filter(|limit| !is_possible(limit))
        .map(|limit| match limit.value {
            Some(value) => format!("{} ({value}, not writable)", limit.key),
            None => format!("{} (not found)", limit.key),
        })
        .collect();
    if !fixed.is_empty() {
        let fix = match local.root {
            true => "raise them where this machine's kernel is configured",
            false => "run: sudo pixels setup",
        };
        plan.warnings.push(format!(
            "cannot raise kernel limits: {}; one pixel can use them up for the host and all \
             pixels; {fix}",
            shorten(&fixed)
        ));
    }
    if !low().any(|limit| is_possible(&limit)) {
        return;
    }
    // The file must not lower a higher value at the next boot.
    let settings = local
        .kernel_limits
        .iter()
        .filter(is_possible)
        .filter(|limit| limit.value <= Some(limit.recommended))
        .map(|limit| Setting {
            key: limit.key,
            value: limit.recommended,
        })
        .collect();
    plan.add(
        StepId::Limits,
        "raise kernel limits",
        "one pixel can use them up for the host and all pixels",
        Action::RaiseLimits {
            path: SYSCTL_FILE.into(),
            settings,
        },
    );
}

/// Adds the steps that start Incus: with systemd if it is running, else as a
/// background process. `unreachable` is the reason why the daemon does not
/// answer.
pub fn add_daemon(plan: &mut Plan, local: &LocalFacts, unreachable: &str) {
    if !local.linux {
        return;
    }
    if let Some(pid) = local.daemon_pid {
        plan.add(
            StepId::Daemon,
            "wait for Incus",
            "Incus is running and does not answer yet",
            Action::AwaitDaemon { pid },
        );
        return;
    }
    let default_dir = local.incus_dir == Path::new(INCUS_DIR);
    if local.systemd && default_dir {
        let units = ["enable", "--now", "incus.socket", "incus.service"];
        plan.add(
            StepId::Daemon,
            "start Incus",
            unreachable,
            Action::Run {
                commands: vec![CommandLine::new("systemctl", units)],
            },
        );
        return;
    }
    if !local.lxcfs_mounted && local.fuse {
        plan.add(
            StepId::Lxcfs,
            "start lxcfs",
            "shows containers their own limits instead of the host's",
            Action::Background {
                command: CommandLine::new("setsid", ["lxcfs", LXCFS_DIR]),
                log: "/var/log/lxcfs.log".into(),
            },
        );
    }
    let program = local.incusd.clone().unwrap_or_else(|| INCUSD.into());
    let logs = if default_dir {
        PathBuf::from("/var/log/incus")
    } else {
        local.incus_dir.join("logs")
    };
    let mut command = CommandLine::new("setsid", [program.to_string_lossy()]);
    // The package, if not yet installed, creates the group.
    if local.admin_group || local.incusd.is_none() {
        command.args.extend(["--group".into(), ADMIN_GROUP.into()]);
    }
    let logfile = logs.join("incusd.log").to_string_lossy().into_owned();
    command.args.extend(["--logfile".into(), logfile]);
    if !default_dir {
        command = command.env("INCUS_DIR", local.incus_dir.to_string_lossy());
    }
    plan.add(
        StepId::Daemon,
        "start Incus",
        unreachable,
        Action::Background {
            command,
            log: logs.join("incusd.err"),
        },
    );
}
