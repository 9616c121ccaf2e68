//! The daemon's JSON types, limited to the fields that pixels reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Debug, Deserialize)]
pub struct Envelope {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub error_code: u16,
    #[serde(default)]
    pub error: String,
    /// Metadata of the answer, which the caller decodes.
    #[serde(default)]
    pub metadata: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
pub struct Server {
    #[serde(default)]
    pub api_extensions: Vec<String>,
    /// The value is `trusted` if the daemon trusts this client.
    #[serde(default)]
    pub auth: String,
    #[serde(default)]
    pub environment: Environment,
}

impl Server {
    pub fn has(&self, extension: &str) -> bool {
        self.api_extensions.iter().any(|known| known == extension)
    }
}

#[derive(Debug, Default, Deserialize)]
pub struct Environment {
    #[serde(default)]
    pub server_version: String,
    #[serde(default)]
    pub server_clustered: bool,
    #[serde(default)]
    pub storage_supported_drivers: Vec<Driver>,
}

#[derive(Debug, Deserialize)]
pub struct Driver {
    #[serde(rename = "Name")]
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Operation {
    pub id: String,
    #[serde(default)]
    pub description: String,
    /// The value is `task` for a change and `websocket` for a command.
    #[serde(default)]
    pub class: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub status_code: u32,
    #[serde(default)]
    pub may_cancel: bool,
    #[serde(default)]
    pub err: String,
    #[serde(default)]
    pub metadata: Value,
    #[serde(default)]
    pub resources: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub name: String,
    #[serde(default)]
    pub status_code: u32,
    #[serde(default)]
    pub created_at: String,
    #[serde(default)]
    pub last_used_at: String,
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    #[serde(default)]
    pub expanded_config: BTreeMap<String, String>,
    #[serde(default)]
    pub expanded_devices: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
pub struct Snapshot {
    pub name: String,
    #[serde(default)]
    pub created_at: String,
    #[serde(default)]
    pub size: i64,
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    #[serde(default)]
    pub expanded_devices: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct State {
    pub network: Option<BTreeMap<String, NetworkState>>,
    pub disk: Option<BTreeMap<String, Amount>>,
    pub cpu: Amount,
    pub memory: Amount,
    pub processes: i64,
}

/// Bytes of a disk or of memory, or CPU time in nanoseconds. Negative if unknown.
#[derive(Debug, Default, Deserialize)]
pub struct Amount {
    #[serde(default)]
    pub usage: i64,
}

#[derive(Debug, Deserialize)]
pub struct NetworkState {
    #[serde(default, deserialize_with = "null_as_none")]
    pub addresses: Vec<Address>,
    #[serde(default)]
    pub hwaddr: String,
    #[serde(default)]
    pub counters: Counters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Counters {
    pub bytes_received: i64,
    pub bytes_sent: i64,
}

#[derive(Debug, Deserialize)]
pub struct Address {
    pub family: String,
    pub address: String,
    /// The prefix length of the network.
    #[serde(default)]
    pub netmask: String,
    pub scope: String,
}

#[derive(Debug, Deserialize)]
pub struct Lease {
    #[serde(default)]
    pub hwaddr: String,
    pub address: String,
}

#[derive(Debug, Deserialize)]
pub struct Profile {
    #[serde(default)]
    pub devices: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Pool {
    pub name: String,
    #[serde(default)]
    pub driver: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Network {
    pub name: String,
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub managed: bool,
    /// The value is `Pending` until the interface exists.
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub struct ImageAlias {
    pub name: String,
}

/// Decodes null as an empty list, because the daemon encodes empty lists as null.
fn null_as_none<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Converts entries to the daemon's format of devices and configurations.
pub(super) fn pairs(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
