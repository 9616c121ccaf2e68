//! Bases for sandboxes: one build of a base at a time, however many sandboxes
//! wait for it, and a build that failed is not tried again at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use crate::base::{BaseBuilder, BuildObserver};
use crate::model::{Backend, CloneSource};

const REMEMBERED: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Default)]
pub struct Builder {
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    failures: Mutex<HashMap<String, (Instant, String)>>,
}

impl Builder {
    /// What to clone for a base, which is built where it is missing.
    pub async fn origin(
        &self,
        base_builder: &BaseBuilder,
        backend: &dyn Backend,
        cancel: &CancellationToken,
        base: &str,
    ) -> Result<CloneSource> {
        if let Some(origin) = base_builder.ready_checkpoint(backend, base).await? {
            return Ok(origin);
        }
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(base.to_owned()).or_default().clone()
        };
        let _turn = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Interrupted("waiting for its base")),
            turn = turn.lock() => turn,
        };
        if let Some(origin) = base_builder.ready_checkpoint(backend, base).await? {
            return Ok(origin);
        }
        if let Some(failure) = self.failure(base) {
            return Err(Error::invalid(format!(
                "base {base:?} failed to build a short time ago and is not tried again before \
                 {} minutes have passed: {failure}",
                REMEMBERED.as_secs() / 60
            )));
        }
        let name = base.to_owned();
        let watch = BuildObserver {
            phase: Arc::new(|phase| tracing::info!("{phase}")),
            output: Arc::new(move |line| tracing::debug!(base = name, "{line}")),
        };
        let built = base_builder
            .build(backend, cancel, base, false, &watch)
            .await;
        if let Err(error) = &built
            && !error.is_cancelled()
        {
            tracing::warn!(base, %error, "build failed");
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.insert(base.to_owned(), (Instant::now(), error.to_string()));
        }
        Ok(built?)
    }

    /// Why the last build failed, as long as that is remembered.
    pub fn failure(&self, base: &str) -> Option<String> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        failures.get(base).map(|(_, why)| why.clone())
    }
}
