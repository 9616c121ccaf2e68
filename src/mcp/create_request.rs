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
    /// Disk space in MiB, or with a unit such as "20GiB".
    pub disk: Option<String>,
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
        let max = &config.max_resources;
        let memory = bytes("memory", &self.memory, model::parse_memory, max.memory_mib)?;
        let disk = bytes("disk", &self.disk, model::parse_disk, max.disk_mib)?;
        if let Some(cpu) = &self.cpu {
            let invalid = |e: String| Error::invalid(format!("cpu {cpu:?}: {e}"));
            model::parse_cpus(cpu).map_err(invalid)?;
            if let Some(max) = max.cpus.filter(|max| model::count_cpus(cpu) > *max) {
                return Err(invalid(format!("this server allows at most {max} CPUs")));
            }
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
            memory,
            disk,
            ..Record::new(name.to_string(), Status::Provisioning, now)
        })
    }
}

/// Parses a requested amount to bytes. Fails above `max_mib`.
fn bytes(
    field: &str,
    text: &Option<String>,
    parse: fn(&str) -> Result<u64, String>,
    max_mib: Option<u64>,
) -> Result<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    let invalid = |e: String| Error::invalid(format!("{field} {text:?}: {e}"));
    let bytes = parse(text).map_err(invalid)?;
    match max_mib.filter(|max| bytes > max << 20) {
        Some(max) => Err(invalid(format!("this server allows at most {max} MiB"))),
        None => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::MaxResources;
    use super::*;

    #[test]
    fn requested_resources_are_limited_by_the_settings() {
        let mut config = Config::sample();
        config.max_resources = MaxResources {
            cpus: Some(2),
            memory_mib: Some(1024),
            disk_mib: Some(2048),
        };
        let record = |cpu: &str, memory: &str, disk: &str| {
            let request = CreateRequest {
                cpu: Some(cpu.into()),
                memory: Some(memory.into()),
                disk: Some(disk.into()),
                ..CreateRequest::default()
            };
            request.into_record(None, None, OffsetDateTime::UNIX_EPOCH, &config)
        };
        let record_at_limit = record("0,3", "1GiB", "2GiB").unwrap();
        assert_eq!(record_at_limit.disk, Some(2 << 30));
        for (cpu, memory, disk) in [
            ("3", "1GiB", "2GiB"),
            ("0-2", "1GiB", "2GiB"),
            ("2", "1025", "2GiB"),
            ("2", "1GiB", "3GiB"),
        ] {
            let error = record(cpu, memory, disk).unwrap_err().to_string();
            assert!(error.contains("allows at most"), "{error}");
        }
    }
}
