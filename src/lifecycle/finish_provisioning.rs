//! Waits for provisioning and ends the interim policy.

use tokio_util::sync::CancellationToken;

use super::gateway::GatewaySpec;
use super::{end_interim_policy, provisioning};
use crate::model::{Backend, Name, Result, unless_cancelled};
use crate::provision::Report;

/// Waits until all provisioning steps have finished, then ends the interim
/// policy. The interim policy also ends if the wait fails or is canceled.
///
/// `on_report` is called with every report.
pub async fn finish_provisioning(
    backend: &dyn Backend,
    cancel: &CancellationToken,
    gateway_spec: &GatewaySpec,
    name: &Name,
    on_report: &(dyn Fn(&Report) + Sync),
) -> Result<Report> {
    let wait = provisioning::wait(backend, name, on_report);
    let report = unless_cancelled(cancel, wait).await;
    end_interim_policy(backend, gateway_spec, name).await?;
    report
}
