//! The gateway of a segment, on the server: made when it is first needed,
//! started when it is not running, and kept equal to what the server's own
//! records say of the pixels behind it.

mod create;
mod health;
mod reconcile;

pub(super) use create::{ensure, is_incomplete, remove_incomplete};
pub use create::{rebuild, remove};
pub use health::{Health, health, recorded_health};
pub use reconcile::{admit, reconcile};
pub(super) use reconcile::{change, random_address, require};

use crate::egress::gateway::{self as inside, Subnet};
use crate::egress::{self, Denial};
use crate::model::{Backend, Error, Instance, Name, Result};

/// Marks a finished gateway; the value is the version of what is in it.
const KEY: &str = "gateway";
const SUBNET: &str = "subnet";
/// The resolvers to ask, where the uplink's own are not wanted.
const DNS: &str = "dns";
/// The addresses of the server's host, which no pixel is to reach.
const HOST: &str = "host";

/// The segment of those who name none.
pub const DEFAULT_BRIDGE: &str = "pixels0";

/// Which gateway, and how it is made when there is none.
#[derive(Debug, Clone)]
pub struct GatewaySpec {
    pub name: Name,
    pub bridge: String,
    /// Of the pixels; taken when it is made.
    pub subnet: Subnet,
    /// Nobody chose it: where the host has another use for it, another one does.
    pub any_subnet: bool,
    /// Resolvers in place of those of the uplink.
    pub dns: Vec<String>,
    /// How the aliases of images begin that have all a gateway needs.
    pub built: String,
    /// Taken where the server has none of those.
    pub image: String,
    /// What the resolvers of the gateway before it knew.
    pub learned: Option<Vec<u8>>,
}

impl GatewaySpec {
    /// The gateway of another segment, made like this one.
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
}

/// What the gateway of a pixel has refused to it, the latest first.
pub(super) async fn denials(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
) -> Result<Vec<Denial>> {
    let Some(bridge) = &pixel.isolated_bridge else {
        return Err(Error::Unsupported {
            operation: format!("the log of pixel {:?}", pixel.name.as_str()),
            reason: "it is on a network of its own, without a gateway that could refuse anything"
                .into(),
        });
    };
    let address = inside::address_of(pixel).ok_or_else(|| {
        Error::Protocol(format!(
            "pixel {:?} has no address on record",
            pixel.name.as_str()
        ))
    })?;
    let gateway = gateway_spec.for_bridge(bridge);
    egress::denials(&*backend.guest(&gateway.name), Some(address)).await
}

/// Whether this is a gateway, or one in the making, and no pixel of the user's.
pub fn is_gateway(instance: &Instance) -> bool {
    instance.properties.contains_key(SUBNET)
}

/// The subnet on the gateway's record.
fn subnet(instance: &Instance) -> Option<Subnet> {
    instance.properties.get(SUBNET)?.parse().ok()
}
