//! The nouns of the backend boundary.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;

use super::name::{CloneSource, Label, Name};

/// Server-side facts about a pixel, stored with it and inherited by clones.
///
/// On Incus these are the `user.pixels.*` instance keys; the key here is the
/// part after that prefix. An empty value removes the key.
pub type Properties = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Stopped,
    /// Between two states; the server is at work.
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

/// One pixel as the server describes it.
#[derive(Debug, Clone)]
pub struct Instance {
    pub name: Name,
    pub status: Status,
    /// The primary address first. Empty when the pixel is stopped or has none yet.
    pub addresses: Vec<Ipv4Addr>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// False until the first start: an instance whose creation was cut off.
    pub started_once: bool,
    pub image: Option<String>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    /// Runs with root's powers on the host; pixels never makes such an
    /// instance and refuses to work with one.
    pub privileged: bool,
    /// The hardware address of its first interface, once it has one.
    pub mac: Option<String>,
    /// The segment it is joined to by [`Attachment::Segment`].
    pub isolated_bridge: Option<String>,
    pub properties: Properties,
}

#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub label: Label,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Bytes on disk; `None` when the storage does not tell.
    pub size: Option<u64>,
    /// Made by pixels for the duration of one command.
    pub temporary: bool,
    /// Those of the pixel when it was taken.
    pub properties: Properties,
}

/// Limits of a pixel; `None` keeps the default or the source's value.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// A count (`2`) or a set (`0-3`), as the backend takes it.
    pub cpu: Option<String>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// A script that runs as root in place of init, sets the machine up and then
/// becomes init, or the program that `init` names. It runs at every boot and
/// must know by itself when it is done.
#[derive(Debug, Clone)]
pub struct FirstBoot {
    /// Set before the script; names and values without white space or quotes.
    pub variables: Vec<(String, String)>,
    /// POSIX shell whose lines, comments apart, mean the same on one line.
    pub script: String,
}

/// Whether the backend took the [`FirstBoot`] on; if not, it is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitScript {
    Applied,
    Unsupported,
}

/// How a new instance is joined to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// To the network of the user's settings, or what is found on the server.
    Default,
    /// To this segment and nothing else. The server passes no frame between
    /// two such instances, none under a hardware address that is not the
    /// instance's own, and no IPv6.
    IsolatedBridge(String),
    /// To the network of the settings and, by a second interface (`eth1`), to
    /// a segment; the server's host reaches `subnet` through it. It starts
    /// with the server.
    Gateway {
        bridge: String,
        /// Such as `10.98.0.0/16`.
        subnet: String,
    },
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
    /// `None` keeps the source's.
    pub network: Option<Attachment>,
    pub limits: Limits,
    /// Set on the clone, over what it inherits.
    pub properties: Properties,
    pub first_boot: FirstBoot,
}

/// Something that happened to a pixel, as the server tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// RFC 3339.
    pub at: String,
    #[serde(serialize_with = "as_text")]
    pub pixel: Name,
    /// The server's word for it, such as `instance-started`.
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    pub by: Option<Requestor>,
}

fn as_text<S: serde::Serializer>(name: &Name, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

/// Who asked for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requestor {
    pub username: String,
    /// Such as `unix` or `tls`.
    pub protocol: String,
    pub address: String,
}

/// What a running pixel uses; counters begin with its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time of all CPUs together.
    pub cpu: std::time::Duration,
    /// Bytes, like all that follows.
    pub memory: u64,
    /// `None` where the storage does not tell.
    pub disk: Option<u64>,
    pub received: u64,
    pub sent: u64,
    /// A number.
    pub processes: u64,
}
