//! Checks a host and suggests a fix for each problem.
//!
//! This file collects the facts. `remote` and `local` check them without I/O.

mod host_filter;
mod local;
mod ports;
mod remote;
#[cfg(test)]
mod tests;

pub use host_filter::check_host_filter;

use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use self::ports::PortFacts;
use super::Options;
use super::error::Error;
use super::facts::{HostFacts, Reachability, ServerFacts};
use super::image_server;
use super::read_file::{read, read_or_empty};
use super::setup::Inspector;
use crate::backend::incus::{Client, Endpoint};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// The check does not apply to this host, or is not possible.
    Skipped,
    /// Commands work, with limitations.
    Warning,
    /// Some commands will fail.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable identifier for scripts, such as `pool-space`.
    pub id: String,
    /// Title for people, such as "space in the storage pool".
    pub title: String,
    pub status: Status,
    /// The observed state.
    pub detail: String,
    /// The fix for the problem, often a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    pub fn new(id: &str, title: &str, status: Status, detail: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            fix: None,
        }
    }

    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Returns the exit code: 0 if all checks passed, 1 for warnings, 2 for
/// problems. For other commands 2 means wrong usage, but not here.
pub fn exit_code(checks: &[Check]) -> u8 {
    match checks.iter().map(|check| check.status).max() {
        Some(Status::Problem) => 2,
        Some(Status::Warning) => 1,
        _ => 0,
    }
}

/// Checks the host and the server, and appends the caller's results `extra`. If
/// the facts cannot be read, a failed check reports the error.
pub async fn doctor(options: &Options, extra: Vec<Check>) -> Vec<Check> {
    let mut checks = match gather(options).await {
        Ok(facts) => judge(&facts, options),
        Err(error) => vec![Check::new(
            "inspection",
            "inspection of the host",
            Status::Problem,
            error.to_string(),
        )],
    };
    checks.extend(extra);
    checks
}

/// The facts for the checks.
#[derive(Debug, Clone)]
struct Facts {
    host: HostFacts,
    /// Space in the storage pool. `None` if there is no usable pool.
    space: Option<Result<Space, String>>,
    /// Ports of running pixels.
    ports: Result<Vec<PortFacts>, String>,
    machine: Option<Machine>,
    clock: Clock,
}

/// Sizes in bytes. A `total` of 0 means unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Space {
    #[serde(default)]
    used: u64,
    #[serde(default)]
    total: u64,
}

/// Facts about this machine that only the checks need.
#[derive(Debug, Clone, Default)]
struct Machine {
    socket_exists: bool,
    user: String,
    /// Whether `/etc/group` lists the user as a member of `incus-admin`.
    admin_listed: bool,
    bridge_calls_iptables: bool,
    ip_forward: bool,
    /// Maximum number of user namespaces. `None`: no limit.
    user_namespaces: Option<u64>,
    /// Maximum number of kernel keys per user. `None`: unknown.
    keys: Option<u64>,
    /// Whether the changelog of the Incus package lists [`TEMPLATES_CVE`].
    templates_fixed: bool,
}

/// Incus follows symlinks in the disk of an instance when it writes templates.
const TEMPLATES_CVE: &str = "CVE-2026-23954";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// Seconds ahead of the image server's clock. Negative: behind.
    AheadOfServer(i64),
    /// Seconds behind the newest modification time of some system files.
    BehindFiles(i64),
    Unknown,
}

fn judge(facts: &Facts, options: &Options) -> Vec<Check> {
    let mut checks = vec![remote::check_access(facts, options)];
    checks.extend(remote::check_server(facts, options));
    checks.push(ports::check_ports(&facts.ports));
    checks.extend(local::check_machine(facts));
    checks.push(local::check_clock(facts.clock));
    checks
}

/// Status, detail and fix of a check.
type Verdict = (Status, String, Option<String>);

fn ok(detail: impl Into<String>) -> Verdict {
    (Status::Ok, detail.into(), None)
}

fn skipped(detail: impl Into<String>) -> Verdict {
    (Status::Skipped, detail.into(), None)
}

fn warning(detail: impl Into<String>, fix: impl Into<String>) -> Verdict {
    (Status::Warning, detail.into(), Some(fix.into()))
}

fn problem(detail: impl Into<String>, fix: impl Into<String>) -> Verdict {
    (Status::Problem, detail.into(), Some(fix.into()))
}

/// Combines the identifiers and titles in `names` with the verdicts.
fn checks(names: &[(&str, &str)], verdicts: impl IntoIterator<Item = Verdict>) -> Vec<Check> {
    names
        .iter()
        .zip(verdicts)
        .map(|((id, title), (status, detail, fix))| Check {
            fix,
            ..Check::new(id, title, status, detail)
        })
        .collect()
}

/// Returns checks that are skipped for the same reason.
fn all_skipped(names: &[(&str, &str)], reason: &str) -> Vec<Check> {
    checks(names, std::iter::repeat_with(|| skipped(reason)))
}

async fn gather(options: &Options) -> Result<Facts, Error> {
    let mut inspector = Inspector::new(options)?;
    let host = inspector.inspect().await?;
    let space = match host.server.facts() {
        Some(server) => read_space(&inspector.client, server, options).await,
        None => None,
    };
    let is_local = matches!(options.endpoint, Endpoint::Unix(_));
    let ports = match host.server.facts() {
        Some(_) => ports::read_ports(&inspector.client, is_local).await,
        None => Err("Incus does not answer".into()),
    };
    let machine = match &options.endpoint {
        Endpoint::Unix(socket) => Some(Machine {
            templates_fixed: has_template_fix().await,
            ..read_machine(socket)?
        }),
        Endpoint::Https(_) => None,
    };
    let clock = read_clock(&host, options).await?;
    Ok(Facts {
        host,
        space,
        ports,
        machine,
        clock,
    })
}

/// Searches the changelogs of Debian's packages. Fixes of distributions do not
/// change the version that the daemon reports.
async fn has_template_fix() -> bool {
    let changelogs = ["incus-base", "incus"]
        .map(|package| format!("/usr/share/doc/{package}/changelog.Debian.gz"));
    let search = tokio::process::Command::new("zgrep")
        .args(["-hs", TEMPLATES_CVE])
        .args(changelogs)
        .output();
    // The status is an error if one of the files does not exist.
    search.await.is_ok_and(|output| !output.stdout.is_empty())
}

async fn read_space(
    client: &Client,
    server: &ServerFacts,
    options: &Options,
) -> Option<Result<Space, String>> {
    #[derive(Deserialize)]
    struct Resources {
        space: Space,
    }
    let pool = server.usable_pool(options.pool.as_deref())?;
    let path = format!("/1.0/storage-pools/{}/resources", pool.name);
    let resources = client.get::<Resources>(&path).await;
    Some(resources.map(|r| r.space).map_err(|e| e.to_string()))
}

fn read_machine(socket: &Path) -> Result<Machine, Error> {
    let number = |path: &str| -> Result<Option<u64>, Error> {
        Ok(read(path)?.and_then(|text| text.trim().parse().ok()))
    };
    let user = std::env::var("USER").unwrap_or_default();
    let groups = read_or_empty("/etc/group")?;
    let admins = groups
        .lines()
        .find_map(|line| line.strip_prefix("incus-admin:")?.rsplit(':').next());
    Ok(Machine {
        socket_exists: socket.exists(),
        admin_listed: admins.is_some_and(|list| list.split(',').any(|name| name == user)),
        user,
        bridge_calls_iptables: number("/proc/sys/net/bridge/bridge-nf-call-iptables")? == Some(1),
        ip_forward: number("/proc/sys/net/ipv4/ip_forward")? == Some(1),
        user_namespaces: number("/proc/sys/user/max_user_namespaces")?,
        keys: number("/proc/sys/kernel/keys/maxkeys")?,
        templates_fixed: false,
    })
}

/// Compares the clock with the image server's clock. If the image server does
/// not answer, compares the clock with modification times of system files,
/// which cannot be in the future.
async fn read_clock(host: &HostFacts, options: &Options) -> Result<Clock, Error> {
    let reachability = match &host.image_server {
        Reachability::NotChecked => image_server::check_reachable(&options.image_server).await?,
        known => known.clone(),
    };
    if let Reachability::Reachable {
        clock_ahead: Some(ahead),
    } = reachability
    {
        return Ok(Clock::AheadOfServer(ahead));
    }
    let newest = ["/var/lib/dpkg/status", "/etc", "/usr/bin", "/var/log"]
        .iter()
        .filter_map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
        .max();
    Ok(match newest {
        None => Clock::Unknown,
        Some(newest) => Clock::BehindFiles(
            newest
                .duration_since(SystemTime::now())
                .map_or(0, |behind| {
                    i64::try_from(behind.as_secs()).unwrap_or(i64::MAX)
                }),
        ),
    })
}
