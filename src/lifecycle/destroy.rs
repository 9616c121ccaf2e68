//! Deletes a pixel.

use super::gateway::GatewaySpec;
use super::network::Network;
use crate::model::{Backend, Name, Result};

/// Deletes a pixel with its checkpoints and removes it from its gateway. Fails
/// with `Error::NotFound` if the pixel does not exist.
pub async fn destroy(backend: &dyn Backend, gateway_spec: &GatewaySpec, name: &Name) -> Result<()> {
    let network = Network::of_instance(&backend.get(name).await?, gateway_spec);
    backend.destroy(name).await?;
    network.reconcile(backend).await;
    Ok(())
}
