//! The gateway of an isolated bridge. Commands create and start the gateway
//! when they need it, and apply the policies recorded on the pixels behind it.

mod create;
mod health;
mod rebuild;
mod reconcile;
mod remove;

pub(super) use create::ensure;
pub use health::{Health, health, host_filter, recorded_health};
pub use rebuild::rebuild;
pub(super) use reconcile::{
    Replaced, begin_lease, change, end_lease, is_running, leases, random_address, undo_change,
};
pub use reconcile::{admit, reconcile};
pub use remove::remove;
pub(super) use remove::{is_incomplete, remove_incomplete};

use crate::egress::gateway::Subnet;
use crate::model::{Instance, Name};

/// Property of a complete gateway: the version of its files and hooks.
const KEY: &str = "gateway";
const SUBNET: &str = "subnet";
/// Property with the DNS servers to use instead of those of the uplink.
const DNS: &str = "dns";
/// Property with the host's addresses, which pixels must not reach.
const HOST: &str = "host";

pub const DEFAULT_BRIDGE: &str = "pixels0";

/// A gateway, with the settings to create it if missing.
#[derive(Debug, Clone)]
pub struct GatewaySpec {
    pub name: Name,
    pub bridge: String,
    /// The subnet of the pixels. Used when the gateway is created.
    pub subnet: Subnet,
    /// Whether other subnets may be used if the host already uses `subnet`.
    pub any_subnet: bool,
    /// DNS servers to use instead of those of the uplink.
    pub dns: Vec<String>,
    /// Prefix of the aliases of local images with all packages of a gateway.
    pub built_image_prefix: String,
    /// The image to use if the server has no image with that prefix.
    pub image: String,
    /// Learned addresses, saved from the previous gateway.
    pub learned: Option<Vec<u8>>,
}

impl GatewaySpec {
    /// Returns the gateway of another bridge, with the same settings.
    pub fn for_bridge(&self, bridge: &str) -> Self {
        let name = match bridge {
            DEFAULT_BRIDGE => Name::gateway(None),
            other => Name::gateway(Some(other)),
        };
        Self {
            name,
            bridge: bridge.to_owned(),
            ..self.clone()
        }
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self {
            name: Name::gateway(None),
            bridge: DEFAULT_BRIDGE.into(),
            subnet: "10.98.0.0/24".parse().unwrap(),
            any_subnet: false,
            dns: Vec::new(),
            built_image_prefix: String::new(),
            image: String::new(),
            learned: None,
        }
    }
}

/// Whether an instance is a gateway, even if incomplete.
pub fn is_gateway(instance: &Instance) -> bool {
    instance.properties.contains_key(SUBNET)
}

/// Returns the subnet recorded on a gateway.
pub(super) fn subnet(instance: &Instance) -> Option<Subnet> {
    instance.properties.get(SUBNET)?.parse().ok()
}
