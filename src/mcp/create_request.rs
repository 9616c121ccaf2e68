//! The arguments of create_sandbox, and their validation.

use serde::Deserialize;
use time::OffsetDateTime;

use super::config::Config;
use super::error::{Error, Result};
use super::state::{Record, Status};
use crate::egress::Policy;
use crate::model::{self, Name, parse_duration, random_hex};

const MAX_LABEL_CHARS: usize = 200;

/// A request to create a sandbox, not yet validated.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// Label shown by list_sandboxes.
    pub label: Option<String>,
    /// Image of the sandbox, such as "ubuntu/24.04"; by default the image in
    /// the settings of the server.
    pub image: Option<String>,
    /// Base to clone instead of an image; see list_bases. A missing base is built
    /// first, which takes minutes.
    pub base: Option<String>,
    /// Network policy: "unrestricted", "agent" (package registries, git hosts,
    /// model APIs) or "allowlist" (only `allow`). By default the policy of the
    /// base or of the server.
    pub egress: Option<String>,
    /// Additional allowed destinations: hosts, *.hosts, addresses or networks,
    /// each with an optional :port.
    pub allow: Option<Vec<String>>,
    /// CPUs: a count such as "2" or a set such as "0-3".
    pub cpu: Option<String>,
    /// Memory in MiB, or with a unit such as "4GiB".
    pub memory: Option<String>,
    /// Destroy the sandbox after this time, such as "30m" or "2h".
    pub ttl: Option<String>,
    /// Wait up to this many seconds until the sandbox is running; by default
    /// return at once with status "provisioning". If the call is canceled while
    /// it waits, no sandbox is created.
    pub wait_sec: Option<u32>,
}

impl CreateRequest {
    /// Validates the values and returns a record with a random name.
    ///
    /// `from`: the sandbox to clone, or its checkpoint as `NAME:LABEL`.
    /// `policy`: the requested policy, already within the ceiling.
    pub fn into_record(
        self,
        from: Option<String>,
        policy: Option<Policy>,
        now: OffsetDateTime,
        config: &Config,
    ) -> Result<Record> {
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
        let random = random_hex(4).map_err(Error::Random)?;
        let name: Name = format!("{}{random}", config.prefix).parse()?;
        Ok(Record {
            label: self.label,
            image: self.image.unwrap_or_default(),
            base: self.base,
            from,
            expires_at: ttl.transpose()?.map(|ttl| now + ttl),
            egress: policy.as_ref().map(|it| it.mode.to_string()),
            policy: policy.map(|it| it.to_record()),
            cpu: self.cpu,
            memory: memory.transpose()?,
            ..Record::new(name.to_string(), Status::Provisioning, now)
        })
    }
}
