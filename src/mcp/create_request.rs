//! What a client wants made, checked and put on record.

use time::OffsetDateTime;

use super::error::{Error, Result};
use super::service::{Options, parse};
use super::state::{Record, Status};
use crate::egress::Policy;
use crate::model::Name;

/// What a client wants made.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    pub label: Option<String>,
    pub image: Option<String>,
    pub base: Option<String>,
    pub egress: Option<String>,
    pub allow: Vec<String>,
    pub cpu: Option<String>,
    /// MiB, or with a unit.
    pub memory: Option<String>,
    pub ttl: Option<String>,
}

/// A sandbox that is about to be made.
pub struct PendingSandbox {
    pub label: Option<String>,
    pub image: String,
    pub base: Option<String>,
    /// A sandbox, or a checkpoint of one.
    pub from: Option<String>,
    pub policy: Option<Policy>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub ttl: Option<String>,
}

impl PendingSandbox {
    pub fn record(self, now: OffsetDateTime, options: &Options) -> Result<Record> {
        if self
            .label
            .as_ref()
            .is_some_and(|it| it.chars().count() > 200)
        {
            return Err(Error::invalid("label: at most 200 characters"));
        }
        let ttl = match self.ttl.as_deref() {
            None => None,
            Some(text) => Some(crate::config::parse_duration(text).ok_or_else(|| {
                Error::invalid(format!(
                    "ttl {text:?}: use a time such as \"30m\" or \"2h\""
                ))
            })?),
        };
        let memory = match self.memory.as_deref() {
            None => None,
            Some(text) => Some(
                crate::model::parse_memory(text)
                    .map_err(|e| Error::invalid(format!("memory {text:?}: {e}")))?,
            ),
        };
        if let Some(cpu) = &self.cpu {
            crate::model::parse_cpus(cpu)
                .map_err(|e| Error::invalid(format!("cpu {cpu:?}: {e}")))?;
        }
        let mut random = [0; 4];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|_| Error::invalid("no random numbers on this machine"))?;
        let name = format!("{}{:08x}", options.prefix, u32::from_ne_bytes(random));
        Ok(Record {
            name: parse::<Name>(&name)?.to_string(),
            label: self.label,
            image: self.image,
            base: self.base,
            from: self.from,
            ip: None,
            status: Status::Provisioning,
            error: None,
            created_at: now,
            last_activity_at: now,
            expires_at: ttl.map(|ttl| now + ttl),
            egress: self.policy.as_ref().map(|it| it.mode.to_string()),
            policy: self.policy.map(|it| it.to_record()),
            cpu: self.cpu,
            memory,
            doomed: false,
        })
    }
}
