//! Replacement of a gateway by a new one.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{GatewaySpec, admit, ensure, reconcile};
use crate::egress::gateway as egress_gateway;
use crate::lifecycle::{Error, Progress, optional};
use crate::model::{Backend, unless_cancelled};

/// How long the old gateway may take to return the addresses it has resolved.
const LEARNED_TIMEOUT: Duration = Duration::from_secs(10);

/// Deletes the gateway and creates it with the present settings. Pixels behind it
/// keep their policies, and their addresses if the subnet can be kept. They have
/// no network until the new gateway runs.
pub async fn rebuild(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway: &GatewaySpec,
    progress: Progress<'_>,
) -> Result<(), Error> {
    // A broken gateway returns none: addresses that pixels have resolved are then
    // denied until they are resolved again.
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
        // Addresses of another subnet must be replaced. A running pixel gets its
        // new address when it is restarted or its DHCP lease ends.
        for pixel in backend.list().await? {
            if pixel.isolated_bridge.as_ref() == Some(&gateway.bridge) {
                admit(backend, &gateway, &pixel.name).await?;
            }
        }
    }
    Ok(reconcile(backend, &gateway).await?)
}
