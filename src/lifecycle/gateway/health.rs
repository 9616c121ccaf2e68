//! Whether a gateway does its part.

use std::fmt;

use super::{GatewaySpec, KEY, reconcile};
use crate::egress::gateway as inside;
use crate::model::{Backend, Error, Instance, Result, Status};

/// In every case but the first, pixels behind it have no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Good {
        pixels: usize,
    },
    Missing,
    Unfinished,
    Stopped,
    /// Runs, and could not put the records into force.
    Broken(String),
}

impl Health {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Good { .. } => "ok",
            Self::Missing => "missing",
            Self::Unfinished => "unfinished",
            Self::Stopped => "stopped",
            Self::Broken(_) => "broken",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { pixels: 1 } => f.write_str("enforces the policy of 1 pixel"),
            Self::Good { pixels } => write!(f, "enforces the policies of {pixels} pixels"),
            Self::Missing => f.write_str("missing; it is made with the first pixel"),
            Self::Unfinished => f.write_str("unfinished: its making was cut off or still goes on"),
            Self::Stopped => f.write_str("stopped: no pixel behind it has a network"),
            Self::Broken(reason) => write!(f, "broken: {reason}"),
        }
    }
}

/// What the server's records say, at the cost of one request.
pub async fn recorded_health(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<Health> {
    match backend.get(&gateway.name).await {
        Ok(found) => Ok(recorded(&found)),
        Err(error) if error.is_not_found() => Ok(Health::Missing),
        Err(error) => Err(error),
    }
}

fn recorded(found: &Instance) -> Health {
    if !found.properties.contains_key(KEY) {
        return Health::Unfinished;
    }
    match found.status {
        Status::Running => Health::Good { pixels: 0 },
        _ => Health::Stopped,
    }
}

/// Looks at the gateway itself, and puts the records into force where they
/// are not.
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
    let own = backend.get(&gateway.name).await?;
    let instances = backend.list().await?;
    let pixels = super::subnet(&own).map_or(0, |subnet| {
        inside::clients(&instances, &gateway.bridge, subnet).len()
    });
    Ok(Health::Good { pixels })
}
