//! Options that the parts of the server share.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::state::Record;
use crate::egress::Mode;

/// Returns the current time. Tests pass a clock of their own.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

#[derive(Debug, Clone)]
pub struct Options {
    /// Prefix of the names of sandboxes.
    pub prefix: String,
    pub limits: Limits,
    pub exec_timeout_max: Duration,
    pub max_sandboxes: Option<u64>,
    /// The widest egress mode that a client may request.
    pub ceiling: Mode,
    /// Owner id stored on each pixel that this server creates.
    pub owner: String,
}

/// How long sandboxes may stay idle, and how long they may exist.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub idle_stop_after: Duration,
    pub hard_destroy_after: Duration,
}

impl Limits {
    /// When the sandbox is destroyed: at its own expiry, or earlier if
    /// `hard_destroy_after` ends earlier.
    pub fn expires_at(&self, record: &Record) -> OffsetDateTime {
        let hard = record.created_at + self.hard_destroy_after;
        record.expires_at.map_or(hard, |expires| expires.min(hard))
    }
}
