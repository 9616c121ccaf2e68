//! A sandbox in the form that clients see.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use super::config::Limits;
use super::state::{Record, Status};
use super::truncate;

#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct SandboxView {
    /// Pass this name to the other tools.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub status: Status,
    /// Reason why the sandbox failed, or a problem of a running sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Empty until an address is assigned.
    pub ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Egress mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    /// End of the time in which provisioning may also reach package registries
    /// and git hosts. Shown by list_sandboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<String>,
    pub created_at: String,
    pub last_activity_at: String,
    /// Duration such as 1h2m3s. Idle sandboxes are stopped; their disk is kept.
    pub idle_for: String,
    /// When the sandbox is destroyed.
    pub expires_at: String,
}

impl SandboxView {
    pub fn new(record: &Record, now: OffsetDateTime, limits: &Limits) -> Self {
        let idle = (now - record.last_activity_at).unsigned_abs();
        let text = |field: &Option<String>| field.clone().map(truncate::text);
        Self {
            name: record.name.clone(),
            label: text(&record.label),
            status: record.status,
            error: text(&record.error),
            ip: record.ip.clone().unwrap_or_default(),
            base: text(&record.base),
            from: text(&record.from),
            egress: text(&record.egress),
            lease_until: None,
            created_at: rfc3339(record.created_at),
            last_activity_at: rfc3339(record.last_activity_at),
            idle_for: format_duration(idle),
            expires_at: rfc3339(limits.expires_at(record)),
        }
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    crate::model::rfc3339(at.unix_timestamp()).unwrap_or_default()
}

/// Formats whole seconds, such as `1h2m3s`.
fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}
