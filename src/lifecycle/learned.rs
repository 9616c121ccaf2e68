//! Finds the rule for a name that allows an address at this moment.

use std::net::IpAddr;

use super::gateway::{self, GatewaySpec};
use crate::egress::{self, ResolvedPolicy, Rule};
use crate::model::{Backend, Instance, Result, Status};

/// Returns the rule that allows a pixel to reach an address at this moment because
/// the rule's name has resolved to the address. `policy`: the policy in force.
/// `None` if the pixel or its gateway is not running.
pub async fn learned_rule(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
    policy: &ResolvedPolicy,
    address: IpAddr,
    port: Option<u16>,
) -> Result<Option<Rule>> {
    if pixel.status != Status::Running {
        return Ok(None);
    }
    let enforcer = match &pixel.isolated_bridge {
        None => pixel.name.clone(),
        Some(bridge) => {
            let gateway = gateway_spec.for_bridge(bridge);
            if !gateway::is_running(backend, &gateway).await? {
                return Ok(None);
            }
            gateway.name
        }
    };
    let guest = backend.guest(&enforcer);
    egress::learned_rule(&*guest, policy, address, port).await
}
