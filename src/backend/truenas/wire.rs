//! The server's JSON types, limited to the fields that pixels reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::model::{Error, Result};

/// Decodes the result of a call. Fails with `Error::Protocol` if invalid.
pub(super) fn decode<T: DeserializeOwned>(method: &str, raw: &RawValue) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|e| Error::Protocol(format!("{method}: {e}")))
}

/// A container of `virt.*` (25.04 and 25.10).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Virt {
    pub name: String,
    pub status: String,
    pub cpu: Option<String>,
    pub memory: Option<u64>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub aliases: Vec<Alias>,
    #[serde(default)]
    pub image: Image,
    /// The instance's state in Incus, if requested in the query.
    pub raw: Option<Raw>,
    pub privileged_mode: Option<bool>,
    pub storage_pool: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Alias {
    #[serde(rename = "type")]
    pub kind: String,
    pub address: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Image {
    pub description: Option<String>,
    pub os: Option<String>,
    pub release: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    pub created_at: String,
    pub last_used_at: String,
    pub config: BTreeMap<String, String>,
    pub state: Option<RawState>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawState {
    pub network: Option<BTreeMap<String, RawInterface>>,
    pub cpu: RawUsage,
    pub memory: RawUsage,
    pub disk: Option<BTreeMap<String, RawUsage>>,
    pub processes: i64,
}

/// Sizes in bytes or CPU time in nanoseconds. Negative if unknown.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawUsage {
    pub usage: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawInterface {
    pub addresses: Vec<RawAddress>,
    pub counters: RawCounters,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawCounters {
    pub bytes_received: i64,
    pub bytes_sent: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawAddress {
    pub family: String,
    pub address: String,
    pub scope: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct VirtConfig {
    pub state: Option<String>,
}

/// A container of `container.*` (26 and later).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lxc {
    pub id: i64,
    pub name: String,
    pub status: LxcStatus,
    pub cpuset: Option<String>,
    pub dataset: String,
    /// Null for a privileged container. A missing field means unprivileged.
    #[serde(default = "mapped")]
    pub idmap: Option<serde_json::Value>,
}

fn mapped() -> Option<serde_json::Value> {
    Some(serde_json::Value::Bool(true))
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct LxcStatus {
    pub state: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Snapshot {
    pub id: String,
    pub snapshot_name: String,
    /// The creation transaction: a decimal number that increases over time.
    pub createtxg: String,
    #[serde(default)]
    pub properties: BTreeMap<String, Property>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Property {
    pub rawvalue: Option<String>,
}

impl Snapshot {
    pub fn order(&self) -> u64 {
        self.createtxg.parse().unwrap_or(0)
    }

    fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name)?.rawvalue.as_deref()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.property(name)?.parse().ok()
    }

    /// Whether the snapshot is marked for deletion and exists only for its clones.
    pub fn is_deferred(&self) -> bool {
        self.property("defer_destroy") == Some("on")
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Interface {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Summary {
    #[serde(default)]
    pub ips: BTreeMap<String, Addresses>,
    #[serde(default)]
    pub default_routes: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Addresses {
    /// Addresses with prefix length, such as `192.0.2.10/24`.
    #[serde(default, rename = "IPV4")]
    pub v4: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Stat {
    pub realpath: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub is_mountpoint: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct CronJob {
    pub id: i64,
    #[serde(default)]
    pub description: String,
}
