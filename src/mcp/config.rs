//! Settings that several parts of the server use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::state::Record;
use crate::egress::Mode;

/// Returns the current time. Tests use a different clock.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// The settings of the server, except addresses and sockets.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name prefix of sandboxes.
    pub prefix: String,
    pub limits: Limits,
    pub reap_interval: Duration,
    pub exec_timeout_max: Duration,
    pub max_sandboxes: Option<u64>,
    pub max_resources: MaxResources,
    /// The most permissive egress mode that a client may request.
    pub ceiling: Mode,
    pub state_file: PathBuf,
    pub pid_file: PathBuf,
    /// Description of the backend, stored in the state file.
    pub server: String,
}

/// The most resources that a client may request for a sandbox. `None`: no limit.
#[derive(Debug, Clone, Default)]
pub struct MaxResources {
    pub cpus: Option<u64>,
    pub memory_mib: Option<u64>,
    pub disk_mib: Option<u64>,
}

#[cfg(test)]
impl Config {
    /// Settings for tests: an idle limit of a minute, an age limit of ten.
    pub fn sample() -> Self {
        let limits = Limits {
            idle_stop_after: Duration::from_secs(60),
            hard_destroy_after: Duration::from_secs(600),
        };
        Self {
            prefix: "s-".into(),
            limits,
            reap_interval: Duration::from_secs(1),
            exec_timeout_max: Duration::from_secs(60),
            max_sandboxes: None,
            max_resources: MaxResources::default(),
            ceiling: Mode::Agent,
            state_file: PathBuf::new(),
            pid_file: PathBuf::new(),
            server: String::new(),
        }
    }
}

/// Maximum idle time and age of sandboxes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub idle_stop_after: Duration,
    pub hard_destroy_after: Duration,
}

impl Limits {
    /// When the sandbox is destroyed: at its own expiry, or at the end of
    /// `hard_destroy_after` if that is earlier.
    pub fn expires_at(&self, record: &Record) -> OffsetDateTime {
        let hard = record.created_at + self.hard_destroy_after;
        record.expires_at.map_or(hard, |expires| expires.min(hard))
    }
}
