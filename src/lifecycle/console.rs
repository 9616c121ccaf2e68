//! Finds the multiplexer of a console while provisioning may still install it.

use std::time::Duration;

use super::session::{self, Multiplexer};
use super::{User, provisioning};
use crate::model::{Backend, Guest, Instance, Result};
use crate::provision::{Overall, Report};

const POLL: Duration = Duration::from_millis(500);

/// Returns the first of the `accepted` multiplexers in a pixel, or `None`.
/// During provisioning, waits until one of them is installed.
///
/// Calls `on_report` with every provisioning report.
pub async fn wait_for_multiplexer(
    backend: &dyn Backend,
    guest: &dyn Guest,
    instance: &Instance,
    user: &User,
    accepted: &[Multiplexer],
    on_report: &(dyn Fn(&Report) + Sync),
) -> Result<Option<Multiplexer>> {
    let mut found = session::find(guest, user, accepted).await?;
    if accepted.is_empty() || !provisioning::is_unfinished(instance) {
        return Ok(found);
    }
    while found.is_none() {
        let report = provisioning::observe(backend, instance).await?;
        on_report(&report);
        found = session::find(guest, user, accepted).await?;
        if report.overall != Overall::Running {
            break;
        }
        if found.is_none() {
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(found)
}
