//! Requests to create a sandbox, and their validation.

use time::OffsetDateTime;

use super::error::{Error, Result};
use super::options::Options;
use super::random;
use super::state::{Record, Status};
use crate::config::parse_duration;
use crate::egress::Policy;
use crate::model::{self, Name};

const MAX_LABEL_CHARS: usize = 200;

/// The arguments of create_sandbox, not yet validated.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    pub label: Option<String>,
    pub image: Option<String>,
    pub base: Option<String>,
    pub egress: Option<String>,
    pub allow: Vec<String>,
    pub cpu: Option<String>,
    /// MiB, or a number with a unit.
    pub memory: Option<String>,
    pub ttl: Option<String>,
}

/// A sandbox that has no record yet.
pub struct PendingSandbox {
    pub label: Option<String>,
    pub image: String,
    pub base: Option<String>,
    /// The sandbox to clone, or a checkpoint of a sandbox as `NAME:LABEL`.
    pub from: Option<String>,
    pub policy: Option<Policy>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub ttl: Option<String>,
}

impl PendingSandbox {
    /// Validates the values and returns a record with a random name.
    pub fn into_record(self, now: OffsetDateTime, options: &Options) -> Result<Record> {
        let label_chars = self.label.as_deref().map_or(0, |it| it.chars().count());
        if label_chars > MAX_LABEL_CHARS {
            return Err(Error::invalid(format!(
                "label is longer than {MAX_LABEL_CHARS} characters"
            )));
        }
        let ttl = self.ttl.as_deref().map(|text| {
            parse_duration(text).ok_or_else(|| {
                Error::invalid(format!(
                    "ttl {text:?}: use a duration such as \"30m\" or \"2h\""
                ))
            })
        });
        let memory = self.memory.as_deref().map(|text| {
            model::parse_memory(text).map_err(|e| Error::invalid(format!("memory {text:?}: {e}")))
        });
        if let Some(cpu) = &self.cpu {
            model::parse_cpus(cpu).map_err(|e| Error::invalid(format!("cpu {cpu:?}: {e}")))?;
        }
        let random = random::hex::<4>().map_err(Error::Random)?;
        let name: Name = format!("{}{random}", options.prefix).parse()?;
        Ok(Record {
            name: name.to_string(),
            label: self.label,
            image: self.image,
            base: self.base,
            from: self.from,
            ip: None,
            status: Status::Provisioning,
            error: None,
            created_at: now,
            last_activity_at: now,
            expires_at: ttl.transpose()?.map(|ttl| now + ttl),
            egress: self.policy.as_ref().map(|it| it.mode.to_string()),
            policy: self.policy.map(|it| it.to_record()),
            cpu: self.cpu,
            memory: memory.transpose()?,
            doomed: false,
        })
    }
}
