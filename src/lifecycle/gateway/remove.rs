//! Removes a gateway.

use super::GatewaySpec;
use super::create::{GatewayState, read_state};
use crate::lifecycle::optional;
use crate::model::{Backend, Error, Result};

/// Whether the creation of the gateway was interrupted: its creator has exited,
/// checked before and after waiting for the server to be idle.
pub async fn is_incomplete(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<bool> {
    let read = async || {
        let state = read_state(backend, gateway).await;
        state.map(|state| matches!(state, GatewayState::Incomplete))
    };
    if !read().await? {
        return Ok(false);
    }
    backend.wait_idle(&gateway.name).await?;
    read().await
}

/// Deletes the gateway if [`is_incomplete`] returns true.
pub async fn remove_incomplete(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    if !is_incomplete(backend, gateway).await? {
        return Ok(());
    }
    optional(backend.destroy(&gateway.name).await).map(drop)
}

/// Deletes the gateway and its bridge. Succeeds if they do not exist. Fails
/// with `Error::Invalid` if there are pixels behind the gateway or another
/// command is creating the gateway.
pub async fn remove(backend: &dyn Backend, gateway: &GatewaySpec) -> Result<()> {
    let refuse = |reason: String| {
        let name = gateway.name.instance();
        let message = format!("cannot remove gateway {name:?}: {reason}");
        Err(Error::Invalid(message.into()))
    };
    let pixels = backend.list().await?;
    let clients: Vec<&str> = pixels
        .iter()
        .filter(|pixel| pixel.isolated_bridge.as_ref() == Some(&gateway.bridge))
        .map(|pixel| pixel.name.as_str())
        .collect();
    if !clients.is_empty() {
        return refuse(format!("in use by {}", clients.join(", ")));
    }
    match read_state(backend, gateway).await? {
        GatewayState::Missing => {}
        GatewayState::BeingCreated => return refuse("another command is creating it".into()),
        _ => drop(optional(backend.destroy(&gateway.name).await)?),
    }
    let network = backend.isolated_network()?;
    network.remove_bridge(&gateway.bridge).await
}
