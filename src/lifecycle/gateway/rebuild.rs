//! Replaces a gateway by a new gateway.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{GatewaySpec, admit, ensure, reconcile};
use crate::egress::gateway as egress_gateway;
use crate::lifecycle::{Error, Progress, optional};
use crate::model::{Backend, unless_cancelled};

/// Time limit for reading the learned addresses of the old gateway.
const LEARNED_TIMEOUT: Duration = Duration::from_secs(10);

/// Deletes the gateway and creates it again with the current settings. Pixels
/// behind it keep their policies, and their addresses if the subnet is
/// unchanged. They have no network until the new gateway runs.
pub async fn rebuild(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway: &GatewaySpec,
    progress: Progress<'_>,
) -> Result<(), Error> {
    // Reading fails on a broken gateway: learned addresses are then denied
    // until pixels resolve them again.
    let guest = backend.guest(&gateway.name);
    let learned =
        match tokio::time::timeout(LEARNED_TIMEOUT, egress_gateway::learned(&*guest)).await {
            Ok(Ok(learned)) => Some(learned),
            _ => None,
        };
    let old = optional(backend.get(&gateway.name).await)?;
    let old_subnet = old.as_ref().and_then(super::subnet);
    progress("removing the gateway");
    optional(unless_cancelled(cancel, backend.destroy(&gateway.name)).await)?;
    let mut gateway = GatewaySpec {
        learned,
        ..gateway.clone()
    };
    if let Some(subnet) = old_subnet.filter(|_| gateway.any_subnet) {
        gateway.subnet = subnet;
    }
    ensure(backend, cancel, &gateway, progress).await?;
    let new = backend.get(&gateway.name).await?;
    if super::subnet(&new) != old_subnet {
        // Replace addresses outside the subnet. A running pixel gets its new
        // address at its next restart or when its DHCP lease ends.
        for pixel in backend.list().await? {
            if pixel.isolated_bridge.as_ref() == Some(&gateway.bridge) {
                admit(backend, &gateway, &pixel.name).await?;
            }
        }
    }
    Ok(reconcile(backend, &gateway).await?)
}
