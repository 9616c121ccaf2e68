//! The types of the backend's API.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::name::{CloneSource, Label, Name};

/// Records about a pixel, stored with it on the server and inherited by clones.
///
/// On Incus these are the instance keys `user.pixels.KEY`. An empty value deletes
/// the key.
pub type Properties = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Stopped,
    /// An operation on the instance runs.
    Changing,
    Failed,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
            Self::Changing => "CHANGING",
            Self::Failed => "ERROR",
        }
    }
}

/// A pixel as the server reports it.
#[derive(Debug, Clone)]
pub struct Instance {
    pub name: Name,
    pub status: Status,
    /// The primary address comes first. Empty if the pixel is stopped or has no
    /// address yet.
    pub addresses: Vec<Ipv4Addr>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// False before the first start. Then its creation still runs or was
    /// interrupted.
    pub started_once: bool,
    pub image: Option<String>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    /// The instance runs with root privileges on the host. pixels never creates
    /// such an instance, and denies access to one.
    pub privileged: bool,
    /// The MAC of the first interface; `None` before the server has generated it.
    pub mac: Option<String>,
    /// The bridge of [`Attachment::IsolatedBridge`].
    pub isolated_bridge: Option<String>,
    pub properties: Properties,
}

#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub label: Label,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Bytes on disk; `None` if the storage does not report them.
    pub size: Option<u64>,
    /// Taken by pixels for the duration of one command.
    pub temporary: bool,
    /// The pixel's properties at the time of the checkpoint.
    pub properties: Properties,
}

/// Limits of a pixel; `None` keeps the default, or the source's value of a clone.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// A number of CPUs (`2`) or a set (`0-3`).
    pub cpu: Option<String>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// A script that runs as root in place of init at every boot, and then executes
/// init. It must detect that it has nothing left to do.
#[derive(Debug, Clone)]
pub struct FirstBoot {
    /// Shell variables of the script. Names and values have no white space or
    /// quotes.
    pub variables: Vec<(String, String)>,
    /// POSIX shell that also works without comments and line breaks.
    pub script: String,
}

/// Whether the backend runs the [`FirstBoot`] script. If not, the caller gives the
/// pixel its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitScript {
    Applied,
    Unsupported,
}

/// How a new instance is attached to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// To the network of the settings, by default the server's default network.
    Default,
    /// Only to this isolated bridge. The server drops frames between two such
    /// instances, frames with another MAC than the instance's, and IPv6.
    IsolatedBridge(String),
    /// To the network of the settings and, with a second interface (`eth1`), to
    /// an isolated bridge. The server's host routes `subnet` to the instance. The
    /// instance starts with the server.
    Gateway {
        bridge: String,
        /// Such as `10.98.0.0/16`.
        subnet: String,
    },
}

/// How an interface of an instance is attached to an interface of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicKind {
    Macvlan,
    Bridged,
}

#[derive(Debug, Clone)]
pub struct CreateSpec {
    pub name: Name,
    pub image: String,
    pub network: Attachment,
    pub limits: Limits,
    pub properties: Properties,
    pub first_boot: FirstBoot,
}

#[derive(Debug, Clone)]
pub struct ForkSpec {
    pub name: Name,
    pub from: CloneSource,
    /// `None` keeps the attachment of the source.
    pub network: Option<Attachment>,
    pub limits: Limits,
    /// Merged into the inherited properties.
    pub properties: Properties,
    pub first_boot: FirstBoot,
}

/// A lifecycle event of a pixel, as the server reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// RFC 3339.
    pub at: String,
    #[serde(serialize_with = "as_text")]
    pub pixel: Name,
    /// The server's term, such as `instance-started`.
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    pub by: Option<Requestor>,
}

fn as_text<S: serde::Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// The user who sent a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requestor {
    pub username: String,
    /// Such as `unix` or `tls`.
    pub protocol: String,
    pub address: String,
}

/// Resource usage of a running pixel. Counters start at zero with the pixel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The sum over all CPUs.
    pub cpu: std::time::Duration,
    /// Bytes.
    pub memory: u64,
    /// Bytes; `None` if the storage does not report them.
    pub disk: Option<u64>,
    /// Bytes received by all network interfaces.
    pub received: u64,
    /// Bytes sent by all network interfaces.
    pub sent: u64,
    pub processes: u64,
}
