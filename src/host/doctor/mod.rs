//! What is wrong with a host, and the command that mends it.
//!
//! The facts are gathered here; `remote` and `local` judge them and are pure.

mod local;
mod remote;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Options;
use super::error::Error;
use super::facts::{HostFacts, INOTIFY, Reachability, ServerFacts, ServerState};
use super::image_server;
use super::read_file::{read, read_or_empty};
use super::setup::Inspector;
use crate::backend::incus::Client;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Does not apply here, or cannot be told.
    Skipped,
    /// Works, and not as well as it could.
    Warning,
    /// Something will fail.
    Problem,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable, for scripts: such as `pool-space`.
    pub id: String,
    /// For people: such as "space in the storage pool".
    pub title: String,
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it; often a command.
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

/// 0: nothing is wrong; 1: warnings; 2: problems.
pub fn exit_code(checks: &[Check]) -> u8 {
    match checks.iter().map(|check| check.status).max() {
        Some(Status::Problem) => 2,
        Some(Status::Warning) => 1,
        _ => 0,
    }
}

/// Looks at the host and the server. `extra` are checks of the caller's, put
/// last. What cannot be looked at is a problem of its own, never an error.
pub async fn doctor(options: &Options, extra: Vec<Check>) -> Vec<Check> {
    let mut checks = match gather(options).await {
        Ok(facts) => judge(&facts, options),
        Err(error) => vec![Check::new(
            "inspection",
            "looking at the host",
            Status::Problem,
            error.to_string(),
        )],
    };
    checks.extend(extra);
    checks
}

/// Everything the checks are made from.
#[derive(Debug, Clone)]
struct Facts {
    host: HostFacts,
    space: Option<Result<Space, String>>,
    machine: Option<Machine>,
    clock: Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Space {
    used: u64,
    total: u64,
}

/// More about this machine than a plan needs.
#[derive(Debug, Clone, Default)]
struct Machine {
    socket_exists: bool,
    user: String,
    /// `/etc/group` lists the user as a member of `incus-admin`.
    admin_listed: bool,
    bridge_calls_iptables: bool,
    ip_forward: bool,
    /// 0: none may be made. `None`: the kernel sets no limit.
    user_namespaces: Option<u64>,
    inotify: Option<u64>,
    keys: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// Seconds ahead of a server's; negative is behind.
    Against(i64),
    /// Seconds behind the newest of the host's own files.
    BehindFiles(i64),
    Unknown,
}

fn judge(facts: &Facts, options: &Options) -> Vec<Check> {
    let mut checks = vec![remote::access(facts, options)];
    checks.extend(match &facts.host.server {
        ServerState::Answers(server) => remote::server(server, facts, options),
        _ => remote::skipped(),
    });
    checks.extend(local::checks(facts));
    checks
}

async fn gather(options: &Options) -> Result<Facts, Error> {
    let mut inspector = Inspector::new(options)?;
    let host = inspector.look().await?;
    let space = match host.server.facts() {
        Some(server) => space(&inspector.client, server, options).await,
        None => None,
    };
    let machine = match options.incus_dir() {
        Some(_) => Some(machine(options)?),
        None => None,
    };
    let clock = clock(&host, options).await?;
    Ok(Facts {
        host,
        space,
        machine,
        clock,
    })
}

async fn space(
    client: &Client,
    server: &ServerFacts,
    options: &Options,
) -> Option<Result<Space, String>> {
    #[derive(Deserialize)]
    struct Resources {
        space: Numbers,
    }
    #[derive(Deserialize)]
    struct Numbers {
        #[serde(default)]
        used: u64,
        #[serde(default)]
        total: u64,
    }
    let pool = server.usable_pool(options.pool.as_deref())?;
    let path = format!("/1.0/storage-pools/{}/resources", pool.name);
    let found = client.get::<Resources>(&path).await;
    Some(
        found
            .map(|r| Space {
                used: r.space.used,
                total: r.space.total,
            })
            .map_err(|e| e.to_string()),
    )
}

fn machine(options: &Options) -> Result<Machine, Error> {
    let number = |path: &str| -> Result<Option<u64>, Error> {
        Ok(read(path)?.and_then(|text| text.trim().parse().ok()))
    };
    let user = std::env::var("USER").unwrap_or_default();
    let groups = read_or_empty("/etc/group")?;
    let admins = groups
        .lines()
        .find_map(|line| line.strip_prefix("incus-admin:")?.rsplit(':').next());
    Ok(Machine {
        socket_exists: match &options.endpoint {
            crate::backend::incus::Endpoint::Unix(socket) => socket.exists(),
            crate::backend::incus::Endpoint::Https(_) => false,
        },
        admin_listed: admins.is_some_and(|list| list.split(',').any(|name| name == user)),
        user,
        bridge_calls_iptables: number("/proc/sys/net/bridge/bridge-nf-call-iptables")? == Some(1),
        ip_forward: number("/proc/sys/net/ipv4/ip_forward")? == Some(1),
        user_namespaces: number("/proc/sys/user/max_user_namespaces")?,
        inotify: number(INOTIFY)?,
        keys: number("/proc/sys/kernel/keys/maxkeys")?,
    })
}

/// The image server's clock where it answers, else the host's own files:
/// none can be from the future.
async fn clock(host: &HostFacts, options: &Options) -> Result<Clock, Error> {
    let reach = match &host.image_server {
        Reachability::NotAsked => image_server::image_server(&options.image_server).await?,
        known => known.clone(),
    };
    if let Reachability::Reachable {
        clock_ahead: Some(ahead),
    } = reach
    {
        return Ok(Clock::Against(ahead));
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
