//! Starts an existing pixel.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::gateway::GatewaySpec;
use super::guest_policy;
use super::network::Network;
use super::{Error, Progress};
use crate::model::{Backend, Name, Status, unless_cancelled};

/// Time to shut down for a pixel whose policy cannot be applied.
const GRACE: Duration = Duration::from_secs(10);

/// Starts a pixel with its recorded policy, and its gateway if necessary.
/// Succeeds if the pixel is already running. `gateway_spec` describes how to
/// create a missing gateway.
///
/// If a pixel that enforces its own policy cannot apply the policy after its
/// start, the pixel is stopped again.
pub async fn start(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway_spec: &GatewaySpec,
    name: &Name,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let instance = unless_cancelled(cancel, backend.get(name)).await?;
    let network = Network::of_instance(&instance, gateway_spec);
    network.ensure(backend, cancel, progress).await?;
    progress("starting");
    let work = async {
        if let Network::External(guest_policy) = &network {
            guest_policy.refresh_files(backend, &instance).await?;
        }
        network.start(backend, name).await
    };
    let Err(source) = unless_cancelled(cancel, work).await else {
        return Ok(());
    };
    let mut leftovers = Vec::new();
    if instance.isolated_bridge.is_none()
        && guest_policy::needs_guest_policy(&instance)
        && instance.status == Status::Stopped
        && let Err(error) = backend.stop(name, GRACE).await
    {
        leftovers.push(format!(
            "pixel {:?}, which may run without its policy ({error}); stop it with: pixels stop {name}",
            name.as_str()
        ));
    }
    Err(Error { source, leftovers })
}
