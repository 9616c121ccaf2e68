//! Builds bases for sandboxes. Sandboxes that need the same base share a build,
//! and a failed build is not retried for 10 minutes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Error, Result};
use super::service::Service;
use crate::base::BuildObserver;
use crate::model::{CloneSource, lock, unless_cancelled};

/// Time that a failed build is not retried.
const RETRY_AFTER: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Default)]
pub struct BaseBuilds {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    failures: Mutex<HashMap<String, (Instant, String)>>,
}

impl Service {
    /// Returns the checkpoint to clone for a base. Builds a base that is not
    /// ready. Fails without a build if the last build failed recently.
    pub(super) async fn build_base(&self, base: &str) -> Result<CloneSource> {
        let (base_builder, backend) = (&self.base_builder, &*self.backend);
        if let Some(ready) = base_builder.ready_checkpoint(backend, base).await? {
            return Ok(ready);
        }
        let builds = &self.base_builds;
        let build_lock = lock(&builds.locks)
            .entry(base.to_owned())
            .or_default()
            .clone();
        let waiting = async { Ok(build_lock.lock().await) };
        let _guard = unless_cancelled(self.stopping(), waiting).await?;
        if let Some(ready) = base_builder.ready_checkpoint(backend, base).await? {
            return Ok(ready);
        }
        if let Some(failure) = builds.recent_failure(base) {
            return Err(Error::invalid(format!(
                "the last build of base {base:?} failed and is not retried within {} minutes: \
                 {failure}",
                RETRY_AFTER.as_secs() / 60
            )));
        }
        let name = base.to_owned();
        let observer = BuildObserver {
            phase: Arc::new(|phase| tracing::info!("{phase}")),
            output: Arc::new(move |line| tracing::debug!(base = name, "{line}")),
        };
        let built = base_builder
            .build(backend, self.stopping(), base, false, &observer)
            .await;
        if let Err(error) = &built
            && !error.is_cancelled()
        {
            tracing::warn!(base, %error, "cannot build");
            let mut failures = lock(&builds.failures);
            failures.insert(base.to_owned(), (Instant::now(), error.to_string()));
        }
        Ok(built?)
    }
}

impl BaseBuilds {
    /// Returns the error of the last build if it failed recently.
    pub fn recent_failure(&self, base: &str) -> Option<String> {
        let mut failures = lock(&self.failures);
        failures.retain(|_, (at, _)| at.elapsed() < RETRY_AFTER);
        failures.get(base).map(|(_, error)| error.clone())
    }
}
