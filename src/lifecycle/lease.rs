//! Provisioning leases. The command that provisions a pixel renews the lease
//! while the steps run. Without renewal, for example after the command was
//! killed, the gateway or the pixel ends the lease.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gateway::{self, GatewaySpec};
use super::network::Network;
use super::policy_properties::recorded_policy;
use super::{Error, guest_policy, provisioning};
use crate::egress::gateway::address_of;
use crate::egress::lease::LEASE;
use crate::egress::{self, Policy};
use crate::model::{Backend, Instance, Name, Result, Status, unless_cancelled};
use crate::provision::{Plan, Report};

/// Time between renewals. Several may fail before the lease ends.
const RENEWAL: Duration = Duration::from_secs(15);
/// Maximum time of a lease with all renewals.
const MAX_LEASE: Duration = Duration::from_secs(30 * 60);

/// The lease of a pixel.
pub struct Lease<'a> {
    backend: &'a dyn Backend,
    network: Network,
    pixel: Instance,
    begun: Instant,
}

impl<'a> Lease<'a> {
    /// Begins the lease of a running pixel, or continues it. `None` if the
    /// pixel's policy has no leases.
    pub async fn begin(
        backend: &'a dyn Backend,
        cancel: &CancellationToken,
        gateway_spec: &GatewaySpec,
        name: &Name,
    ) -> Result<Option<Self>, Error> {
        let pixel = unless_cancelled(cancel, backend.get(name)).await?;
        let network = Network::of_instance(&pixel, gateway_spec);
        let Some(policy) = policy_during_lease(&pixel)? else {
            return Ok(None);
        };
        network.ensure(backend, cancel, &|_| {}).await?;
        let begun = Instant::now();
        let beginning = async {
            match &network {
                Network::Gateway(gateway) => gateway::begin_lease(backend, gateway, name).await,
                Network::External(guest_policy) => {
                    guest_policy
                        .begin_lease(backend, name, &policy, MAX_LEASE)
                        .await
                }
            }
        };
        unless_cancelled(cancel, beginning).await?;
        Ok(Some(Self {
            backend,
            network,
            pixel,
            begun,
        }))
    }

    /// Renews the lease until `work` has finished, at most until the maximum
    /// time of the lease.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> T {
        let renewals = async {
            while self.begun.elapsed() + RENEWAL + LEASE < MAX_LEASE {
                tokio::time::sleep(RENEWAL).await;
                match self.renew().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => tracing::debug!(%error, "cannot renew the lease"),
                }
            }
            tracing::warn!(
                "the provisioning lease of {} has ended: downloads that its policy denies fail",
                self.pixel.name
            );
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            outcome = work => outcome,
            never = renewals => match never {},
        }
    }

    /// Restarts the time of the lease. Returns false if the lease has ended.
    async fn renew(&self) -> Result<bool> {
        match (&self.network, address_of(&self.pixel)) {
            (Network::Gateway(gateway), Some(address)) => {
                let guest = self.backend.guest(&gateway.name);
                egress::lease::renew(&*guest, &address.to_string()).await
            }
            (Network::Gateway(_), None) => Ok(false),
            (Network::External(_), _) => {
                egress::pixel::renew_lease(&*self.backend.guest(&self.pixel.name)).await
            }
        }
    }

    /// Ends the lease. Errors are only logged: the lease then ends after its
    /// time.
    pub async fn end(self) {
        let name = &self.pixel.name;
        let outcome = match &self.network {
            Network::Gateway(gateway) => gateway::end_lease(self.backend, gateway, name).await,
            Network::External(_) => egress::pixel::end_lease(&*self.backend.guest(name)).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "cannot end the lease");
        }
    }
}

/// The policy of a pixel during a lease. `None` if it has no leases.
pub fn policy_during_lease(pixel: &Instance) -> Result<Option<Policy>> {
    if pixel.isolated_bridge.is_none() && !guest_policy::has_guest_policy(pixel) {
        return Ok(None);
    }
    Ok(recorded_policy(pixel)?.during_lease())
}

/// Applies a plan to a running pixel and starts its steps, with a lease if the
/// policy has leases. Returns the lease, for [`finish_provisioning`].
pub async fn begin_provisioning<'a>(
    backend: &'a dyn Backend,
    cancel: &CancellationToken,
    gateway_spec: &GatewaySpec,
    name: &Name,
    plan: &Plan,
) -> Result<Option<Lease<'a>>, Error> {
    let applying = unless_cancelled(cancel, provisioning::apply(backend, name, plan));
    let Some(lease) = Lease::begin(backend, cancel, gateway_spec, name).await? else {
        applying.await?;
        return Ok(None);
    };
    if let Err(error) = lease.hold(applying).await {
        lease.end().await;
        return Err(error.into());
    }
    Ok(Some(lease))
}

/// Waits until all provisioning steps have finished, and ends the lease. The
/// lease also ends if the wait fails or is canceled.
///
/// `on_report` is called with every report.
pub async fn finish_provisioning(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    name: &Name,
    lease: Option<Lease<'_>>,
    on_report: &(dyn Fn(&Report) + Sync),
) -> Result<Report> {
    let waiting = unless_cancelled(cancel, provisioning::wait(backend, name, on_report));
    let Some(lease) = lease else {
        return waiting.await;
    };
    let report = lease.hold(waiting).await;
    lease.end().await;
    report
}

/// Returns the remaining time of a pixel's lease; `None` without a lease.
pub async fn lease(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixel: &Instance,
) -> Result<Option<Duration>> {
    let pixels = std::slice::from_ref(pixel);
    Ok(leases(backend, gateway_spec, pixels)
        .await?
        .remove(&pixel.name))
}

/// Returns the remaining times of all leases of these pixels. Sends one request
/// to each gateway of a running pixel whose policy has leases.
pub async fn leases(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixels: &[Instance],
) -> Result<BTreeMap<Name, Duration>> {
    let candidates = pixels.iter().filter(|pixel| {
        pixel.status == Status::Running && matches!(policy_during_lease(pixel), Ok(Some(_)))
    });
    let mut by_bridge: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    let mut inside = Vec::new();
    for pixel in candidates {
        match &pixel.isolated_bridge {
            Some(bridge) => by_bridge.entry(bridge).or_default().push(pixel),
            None => inside.push(pixel),
        }
    }
    let behind_gateways = by_bridge.into_iter().map(|(bridge, pixels)| async move {
        let leases = gateway::leases(backend, &gateway_spec.for_bridge(bridge)).await?;
        let lease = |pixel: &Instance| leases.get(&address_of(pixel)?.to_string()).copied();
        let leases = pixels
            .iter()
            .filter_map(|pixel| Some((pixel.name.clone(), lease(pixel)?)));
        Ok(Vec::from_iter(leases))
    });
    let inside = inside.iter().map(|pixel| async {
        let lease = egress::pixel::lease(&*backend.guest(&pixel.name))
            .await
            .ok()??;
        Some((pixel.name.clone(), lease))
    });
    let (behind_gateways, inside): (Result<Vec<Vec<_>>>, _) =
        tokio::join!(try_join_all(behind_gateways), join_all(inside));
    let leases = behind_gateways?.into_iter().flatten();
    Ok(leases.chain(inside.into_iter().flatten()).collect())
}
