//! The gateway of an isolated bridge: created when it is first needed, started
//! when it is not running, and kept in sync with the policies recorded on the
//! pixels behind it.

mod create;
mod health;
mod rebuild;
mod reconcile;
mod remove;

pub(super) use create::ensure;
pub use health::{Health, health, recorded_health};
pub use rebuild::rebuild;
pub use reconcile::{admit, reconcile};
pub(super) use reconcile::{change, random_address, require};
pub use remove::remove;
pub(super) use remove::{is_incomplete, remove_incomplete};

use crate::egress::gateway::Subnet;
use crate::model::{Instance, Name};

/// Present on a complete gateway; the value is the version of its files.
const KEY: &str = "gateway";
const SUBNET: &str = "subnet";
/// The DNS servers to use instead of those of the uplink.
const DNS: &str = "dns";
/// The addresses of the server's host, which pixels must not reach.
const HOST: &str = "host";

pub const DEFAULT_BRIDGE: &str = "pixels0";

/// A gateway, and how to create it if it is missing.
#[derive(Debug, Clone)]
pub struct GatewaySpec {
    pub name: Name,
    pub bridge: String,
    /// The subnet of the pixels, used when the gateway is created.
    pub subnet: Subnet,
    /// The user configured no subnet: if the host uses this one, try others.
    pub any_subnet: bool,
    /// DNS servers to use instead of those of the uplink.
    pub dns: Vec<String>,
    /// Aliases of local images with all packages of a gateway start with this.
    pub built_image_prefix: String,
    /// The image to use if the server has no such image.
    pub image: String,
    /// Resolved addresses saved from the previous gateway.
    pub learned: Option<Vec<u8>>,
}

impl GatewaySpec {
    /// The gateway of another bridge, with the same settings.
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

/// Whether an instance is a gateway, complete or not.
pub fn is_gateway(instance: &Instance) -> bool {
    instance.properties.contains_key(SUBNET)
}

/// The recorded subnet of a gateway.
fn subnet(instance: &Instance) -> Option<Subnet> {
    instance.properties.get(SUBNET)?.parse().ok()
}
