//! Health of a gateway.

use std::fmt;

use super::{GatewaySpec, KEY, reconcile};
use crate::egress::gateway as egress_gateway;
use crate::lifecycle::optional;
use crate::model::{Backend, Error, HostFilter, Instance, Result, Status};

/// The health of a gateway. Only [`Health::Good`] gives pixels a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// `pixels`: number of pixels behind the gateway, if counted.
    Good {
        pixels: Option<usize>,
    },
    Missing,
    /// The creation was interrupted or is still running.
    Incomplete,
    Stopped,
    /// The gateway cannot apply the recorded policies, for this reason.
    Broken(String),
}

impl Health {
    /// The name in JSON output and listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Good { .. } => "ok",
            Self::Missing => "missing",
            Self::Incomplete => "unfinished",
            Self::Stopped => "stopped",
            Self::Broken(_) => "broken",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { pixels: None } => f.write_str("running"),
            Self::Good { pixels: Some(1) } => f.write_str("enforces the policy of 1 pixel"),
            Self::Good {
                pixels: Some(count),
            } => write!(f, "enforces the policies of {count} pixels"),
            Self::Missing => f.write_str("missing; created with the first pixel"),
            Self::Incomplete => {
                f.write_str("incomplete: its creation was interrupted or is still running")
            }
            Self::Stopped => f.write_str("stopped: pixels behind it have no network"),
            Self::Broken(reason) => write!(f, "broken: {reason}"),
        }
    }
}

/// Returns the health from the server's records, with one request. Never
/// [`Health::Broken`]; pixels are not counted.
pub async fn recorded_health(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<Health> {
    let instance = optional(backend.get(&gateway.name).await)?;
    Ok(instance.map_or(Health::Missing, |instance| recorded(&instance)))
}

/// Returns the configured filter of the host, or `None` if the gateway is not
/// running.
pub async fn host_filter(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
) -> Result<Option<Option<HostFilter>>> {
    let Some(instance) = optional(backend.get(&gateway.name).await)? else {
        return Ok(None);
    };
    match (recorded(&instance), super::subnet(&instance)) {
        (Health::Good { .. }, Some(subnet)) => {
            let network = backend.isolated_network()?;
            let subnet = subnet.to_string();
            Ok(Some(network.host_filter(&gateway.name, &subnet).await?))
        }
        _ => Ok(None),
    }
}

fn recorded(instance: &Instance) -> Health {
    if !instance.properties.contains_key(KEY) {
        return Health::Incomplete;
    }
    match instance.status {
        Status::Running => Health::Good { pixels: None },
        _ => Health::Stopped,
    }
}

/// Checks the gateway by applying the recorded policies, and counts the pixels
/// behind it.
pub async fn health(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<Health> {
    match recorded_health(backend, gateway).await? {
        Health::Good { .. } => {}
        other => return Ok(other),
    }
    match reconcile(backend, gateway).await {
        Ok(()) => {}
        Err(error @ (Error::Unreachable { .. } | Error::Denied { .. } | Error::Cancelled)) => {
            return Err(error);
        }
        Err(error) => return Ok(Health::Broken(error.to_string())),
    }
    let instance = backend.get(&gateway.name).await?;
    let instances = backend.list().await?;
    let pixels = super::subnet(&instance).map_or(0, |subnet| {
        let records = egress_gateway::records(&instances, &gateway.bridge);
        egress_gateway::clients(&records, subnet).len()
    });
    Ok(Health::Good {
        pixels: Some(pixels),
    })
}
