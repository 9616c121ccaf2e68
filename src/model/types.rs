//! The types of the backend's API.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::name::{CloneSource, Label, Name};

/// Properties of a pixel, stored on the server and inherited by clones.
///
/// On Incus, the instance keys `user.pixels.KEY` store the properties. An empty
/// value deletes the key.
pub type Properties = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Stopped,
    /// The server is running an operation on the instance.
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

/// A pixel, as reported by the server.
#[derive(Debug, Clone)]
pub struct Instance {
    pub name: Name,
    pub status: Status,
    /// IPv4 addresses with the primary address first. Empty if the pixel is stopped
    /// or has no address yet.
    pub addresses: Vec<Ipv4Addr>,
    /// Creation time in seconds since 1970.
    pub created_at: i64,
    /// Whether the pixel was started before. If false, the creation is in progress
    /// or was interrupted.
    pub started_once: bool,
    pub image: Option<String>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub disk: Option<String>,
    /// Whether the instance runs with root privileges on the host. pixels never
    /// creates such an instance, and denies access to privileged instances.
    pub privileged: bool,
    /// The MAC of the first interface, or `None` before the server has generated a MAC.
    pub mac: Option<String>,
    /// The bridge of a pixel with [`Attachment::IsolatedBridge`].
    pub isolated_bridge: Option<String>,
    pub properties: Properties,
}

#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub label: Label,
    /// Creation time in seconds since 1970.
    pub created_at: i64,
    /// Disk usage in bytes, or `None` if the storage does not report the usage.
    pub size: Option<u64>,
    /// Whether pixels created the checkpoint only for the duration of a command.
    pub temporary: bool,
    /// The pixel's properties at the time of the checkpoint.
    pub properties: Properties,
}

/// Resource limits. `None` selects the default, or the source's limit for a clone.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// A CPU count (`2`) or a CPU set (`0-3`).
    pub cpu: Option<String>,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// Limit of the disk's size in bytes. Reserves no space.
    pub disk: Option<u64>,
}

/// A script that runs as root instead of init at every boot, and then executes
/// init. The script must do nothing if its work is already done.
#[derive(Debug, Clone)]
pub struct FirstBoot {
    /// Shell variables of the script. Names and values must not contain white space
    /// or quotes.
    pub variables: Vec<(String, String)>,
    /// POSIX shell code that also works without comments and line breaks.
    pub script: String,
}

/// Whether the backend runs the [`FirstBoot`] script. Otherwise the caller must
/// set the pixel's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitScript {
    Applied,
    Unsupported,
}

/// DSCP of packets with which a gateway reaches its server's host.
/// The value is reserved for local use (RFC 2474, section 6, pool 2).
pub const HOST_ACCESS_DSCP: u8 = 0x03;

/// How to attach a new instance to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// The network from the settings. The default is the server's default network.
    Default,
    /// Only this isolated bridge, where the instance exchanges frames only with the
    /// gateway. The server drops frames with a different source MAC, IP fragments and
    /// IPv6.
    IsolatedBridge(String),
    /// The network from the settings and, on a second interface (`eth1`), an
    /// isolated bridge. The server's host routes `subnet` to the instance. The
    /// instance starts automatically with the server.
    ///
    /// If `eth0` has a port on the host and the server allows low-level settings,
    /// the host filters that port while the instance runs:
    /// - Packets to any address of the host are dropped, except DNS queries, DHCP
    ///   requests and packets with [`HOST_ACCESS_DSCP`].
    /// - Packets to `subnet` are dropped unless the host itself sends them.
    Gateway {
        bridge: String,
        /// The network in CIDR notation, such as `10.98.0.0/16`.
        subnet: String,
    },
}

/// The filter on the server's host for a running gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFilter {
    /// Name of the nftables tables (families `netdev`, `bridge`, `inet` and `arp`).
    pub table: String,
    /// The filtered interface of the host.
    pub port: String,
}

/// How to attach an instance's interface to an interface of the host.
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
    /// The network attachment. `None` keeps the source's attachment.
    pub network: Option<Attachment>,
    pub limits: Limits,
    /// Properties to merge into the inherited properties.
    pub properties: Properties,
    pub first_boot: FirstBoot,
}

/// A lifecycle event of a pixel, as reported by the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The time in RFC 3339 format.
    pub at: String,
    #[serde(serialize_with = "as_text")]
    pub pixel: Name,
    /// The server's name for the action, such as `instance-started`.
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
    /// The protocol of the connection, such as `unix` or `tls`.
    pub protocol: String,
    pub address: String,
}

/// Resource usage of a running pixel. Counters start at zero when the pixel starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, summed over all CPUs.
    pub cpu: std::time::Duration,
    /// Memory usage in bytes.
    pub memory: u64,
    /// Disk usage in bytes, or `None` if the storage does not report the usage.
    pub disk: Option<u64>,
    /// Number of bytes received on all network interfaces.
    pub received: u64,
    /// Number of bytes sent on all network interfaces.
    pub sent: u64,
    pub processes: u64,
}
