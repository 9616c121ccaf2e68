//! Provisioning leases. The command that provisions a pixel renews the lease
//! while the steps run. Without renewal, for example after the command was
//! killed, the gateway or the pixel ends the lease.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::join_all;
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
    if !can_have_lease(pixel) {
        return Ok(None);
    }
    match &pixel.isolated_bridge {
        Some(bridge) => {
            let pixels = &[pixel][..];
            let leases = leases_behind(backend, &gateway_spec.for_bridge(bridge), pixels).await?;
            Ok(leases.into_values().next())
        }
        None => Ok(lease_inside(backend, pixel).await),
    }
}

/// Returns the remaining times of all leases of these pixels. Sends one request
/// to each gateway of a running pixel whose policy has leases. A gateway that
/// cannot be asked is only logged.
pub async fn leases(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixels: &[Instance],
) -> BTreeMap<Name, Duration> {
    let mut by_bridge: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    let mut inside = Vec::new();
    for pixel in pixels.iter().filter(|pixel| can_have_lease(pixel)) {
        match &pixel.isolated_bridge {
            Some(bridge) => by_bridge.entry(bridge).or_default().push(pixel),
            None => inside.push(pixel),
        }
    }
    let behind_gateways = by_bridge.into_iter().map(|(bridge, pixels)| async move {
        let gateway = gateway_spec.for_bridge(bridge);
        let leases = leases_behind(backend, &gateway, &pixels).await;
        leases.unwrap_or_else(|error| {
            let gateway = &gateway.name;
            tracing::warn!(%gateway, "cannot read the provisioning leases: {error}");
            BTreeMap::new()
        })
    });
    let inside = inside.into_iter().map(|pixel| async {
        let lease = lease_inside(backend, pixel).await?;
        Some((pixel.name.clone(), lease))
    });
    let (behind_gateways, inside) = tokio::join!(join_all(behind_gateways), join_all(inside));
    let leases = behind_gateways.into_iter().flatten();
    leases.chain(inside.into_iter().flatten()).collect()
}

fn can_have_lease(pixel: &Instance) -> bool {
    pixel.status == Status::Running && matches!(policy_during_lease(pixel), Ok(Some(_)))
}

async fn leases_behind(
    backend: &dyn Backend,
    gateway: &GatewaySpec,
    pixels: &[&Instance],
) -> Result<BTreeMap<Name, Duration>> {
    let leases = gateway::leases(backend, gateway).await?;
    let lease = |pixel: &Instance| leases.get(&address_of(pixel)?.to_string()).copied();
    let leases = pixels
        .iter()
        .filter_map(|pixel| Some((pixel.name.clone(), lease(pixel)?)));
    Ok(leases.collect())
}

/// A pixel that cannot be asked, for example during its boot, has no lease.
async fn lease_inside(backend: &dyn Backend, pixel: &Instance) -> Option<Duration> {
    let guest = backend.guest(&pixel.name);
    egress::pixel::lease(&*guest).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Mode;
    use crate::egress::gateway::ADDRESS;
    use crate::lifecycle::policy_properties::replacement;
    use crate::model::fake::FakeBackend;
    use crate::model::{ExitStatus, Output};

    const SET: &str = r#"{"nftables": [{"set": {"elem": [
        {"elem": {"val": "10.98.0.5", "timeout": 60, "expires": 58}}]}}]}"#;

    /// A pixel `a` with a lease behind the gateway `g`.
    fn with_lease() -> FakeBackend {
        let backend = FakeBackend::with_pixels(["a", "g"]);
        backend.edit("a", |pixel| {
            pixel.isolated_bridge = Some(GatewaySpec::for_tests().bridge);
            pixel.properties = replacement(&Policy::new(Mode::Allowlist, []));
            let address = (ADDRESS.to_owned(), "10.98.0.5".to_owned());
            pixel.properties.extend([address]);
        });
        backend.edit("g", |instance| {
            instance.properties = [("gateway".to_owned(), "1".to_owned())].into();
        });
        backend.on_exec(|_, command| {
            command.contains("provisioning").then(|| Output {
                status: ExitStatus(0),
                stdout: SET.into(),
                stderr: Vec::new(),
            })
        });
        backend
    }

    #[tokio::test]
    async fn list_of_leases_skips_gateway_that_cannot_be_asked() {
        let (backend, gateway) = (with_lease(), GatewaySpec::for_tests());
        let pixel = backend.get(&"a".parse().unwrap()).await.unwrap();
        let get = format!("get {}", gateway.name);
        backend.fail_at(&get, 1);
        backend.fail_at(&get, 2);
        let pixels = std::slice::from_ref(&pixel);
        assert!(leases(&backend, &gateway, pixels).await.is_empty());
        assert!(lease(&backend, &gateway, &pixel).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn lease_is_renewed_for_at_most_its_maximum_time() {
        let backend = with_lease();
        let lease = Lease {
            backend: &backend,
            network: Network::Gateway(GatewaySpec {
                name: "g".parse().unwrap(),
                ..GatewaySpec::for_tests()
            }),
            pixel: backend.get(&"a".parse().unwrap()).await.unwrap(),
            begun: Instant::now(),
        };
        backend.take_calls();
        let renewals = || {
            let calls = backend.take_calls();
            calls.iter().filter(|it| it.starts_with("exec")).count() as u64
        };
        let last = MAX_LEASE - LEASE;
        lease.hold(tokio::time::sleep(last)).await;
        let expected = last.as_secs() / RENEWAL.as_secs();
        assert!((expected - 2..=expected).contains(&renewals()));
        lease.hold(tokio::time::sleep(MAX_LEASE)).await;
        assert_eq!(renewals(), 0);
    }

    #[tokio::test]
    async fn gateway_that_stops_during_request_has_no_leases() {
        let backend = with_lease();
        let gateway = GatewaySpec {
            name: "g".parse().unwrap(),
            ..GatewaySpec::for_tests()
        };
        let pixel = backend.get(&"a".parse().unwrap()).await.unwrap();
        let found = async || leases_behind(&backend, &gateway, &[&pixel]).await;
        let remaining = Duration::from_secs(58);
        let expected = [(pixel.name.clone(), remaining)].into();
        assert_eq!(found().await.unwrap(), expected);

        backend.fail_at("exec", 1);
        assert!(found().await.is_err());

        backend.take_calls();
        backend.fail_at("exec", 1);
        let stop = async {
            while !backend.calls().iter().any(|call| call.starts_with("exec")) {
                tokio::task::yield_now().await;
            }
            backend.edit("g", |instance| instance.status = Status::Stopped);
        };
        let (found, ()) = tokio::join!(found(), stop);
        assert_eq!(found.unwrap(), [].into());
    }
}
