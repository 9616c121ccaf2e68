//! Data of a listing that is not in the server's records.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::gateway::{self, GatewaySpec, Health};
use super::provisioning;
use crate::egress::gateway::address_of;
use crate::model::{Backend, Instance, Name, Result, Status};

/// Time limit for reading the provisioning status of a pixel.
const STATUS_TIMEOUT: Duration = Duration::from_secs(4);

/// Reads the provisioning status of running pixels with an unfinished record,
/// in parallel, and updates the records. Without an answer, a record is kept.
pub async fn refresh_provisioning(backend: &dyn Backend, pixels: &mut [Instance]) {
    let unfinished = pixels
        .iter_mut()
        .filter(|pixel| pixel.status == Status::Running && provisioning::is_unfinished(pixel));
    join_all(unfinished.map(|pixel| async {
        let report = provisioning::observe(backend, pixel);
        match tokio::time::timeout(STATUS_TIMEOUT, report).await {
            Ok(Ok(report)) => provisioning::set_recorded_state(pixel, &report),
            Ok(Err(error)) => tracing::debug!(%error, name = %pixel.name, "status"),
            Err(_) => tracing::debug!(name = %pixel.name, "status timed out"),
        }
    }))
    .await;
}

/// Adds the addresses that gateways assign to running pixels. Returns the
/// running pixels without network, with the health of their gateways.
pub async fn add_gateway_addresses(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixels: &mut [Instance],
) -> Result<BTreeMap<Name, Health>> {
    let mut by_bridge: BTreeMap<String, Health> = BTreeMap::new();
    let mut without_network = BTreeMap::new();
    for pixel in pixels.iter_mut() {
        let Some(bridge) = &pixel.isolated_bridge else {
            continue;
        };
        if pixel.status != Status::Running {
            continue;
        }
        if !by_bridge.contains_key(bridge) {
            let health =
                gateway::recorded_health(backend, &gateway_spec.for_bridge(bridge)).await?;
            by_bridge.insert(bridge.clone(), health);
        }
        match &by_bridge[bridge] {
            Health::Good { .. } => pixel.addresses.extend(address_of(pixel)),
            other => {
                without_network.insert(pixel.name.clone(), other.clone());
            }
        }
    }
    Ok(without_network)
}
