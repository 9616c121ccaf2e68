//! Calls that create sandboxes: they write a record, start the task that
//! creates the pixel, and optionally wait for the task.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::create_request::CreateRequest;
use super::create_task::Attempt;
use super::egress_ceiling::{requested_policy, within_ceiling};
use super::error::{Error, Result};
use super::response::SandboxView;
use super::service::Service;
use super::state::Status;
use crate::egress::{Policy, presets};
use crate::lifecycle;
use crate::model::{CloneSource, Label};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkArgs {
    /// Name of the sandbox to clone.
    name: String,
    /// Label of the checkpoint to clone; by default the current state.
    checkpoint: Option<String>,
    /// Label of the clone, shown by list_sandboxes.
    label: Option<String>,
    /// Destroy the clone after this time, such as "30m".
    ttl: Option<String>,
    /// Wait up to this many seconds until the clone is running.
    pub wait_sec: Option<u32>,
}

impl Service {
    /// Starts the creation of a sandbox, after its record is written to disk.
    pub async fn create(self: &Arc<Self>, mut request: CreateRequest) -> Result<SandboxView> {
        if request.base.is_some() && request.image.is_some() {
            return Err(Error::invalid("give either base or image, not both"));
        }
        if let Some(base) = &request.base {
            self.check_base(base).await?;
        }
        let defaults = &self.base_builder.defaults;
        let policy = requested_policy(
            request.egress.as_deref(),
            request.allow.as_deref().unwrap_or_default(),
            &defaults.policy,
            self.config.ceiling,
        )?;
        if request.base.is_none() && request.image.is_none() {
            request.image = Some(defaults.image.clone());
        }
        self.begin(request, None, policy).await
    }

    /// Fails if the base is unknown, or if the base is not ready and its last
    /// build failed recently.
    async fn check_base(&self, base: &str) -> Result<()> {
        self.base_builder.pixel(base)?;
        let Some(failure) = self.base_builds.recent_failure(base) else {
            return Ok(());
        };
        let ready = self.base_builder.ready_checkpoint(&*self.backend, base);
        match ready.await? {
            Some(_) => Ok(()),
            None => Err(Error::invalid(format!(
                "the last build of base {base:?} failed recently: {failure}"
            ))),
        }
    }

    /// Starts to clone a sandbox or checkpoint. The clone gets the narrower of
    /// the sandbox's policy and that of the checkpoint, within the ceiling.
    pub async fn fork(self: &Arc<Self>, args: ForkArgs) -> Result<SandboxView> {
        let (source, pixel, _) = self.lock_for_use(&args.name).await?;
        let from = match &args.checkpoint {
            None => source.name,
            Some(label) => {
                let label: Label = label.parse()?;
                self.check_checkpoint(&pixel, &label).await?;
                format!("{}:{label}", source.name)
            }
        };
        let request = CreateRequest {
            label: args.label,
            image: Some(source.image),
            base: source.base,
            ttl: args.ttl,
            ..CreateRequest::default()
        };
        self.begin(request, Some(from), None).await
    }

    /// Returns the policy of a clone of a sandbox or base. `None` if the clone
    /// can keep the policy of its source.
    pub(super) async fn clone_policy(&self, from: &CloneSource) -> Result<Option<Policy>> {
        let present = lifecycle::recorded_policy(&self.backend.get(&from.pixel).await?)?;
        let earlier = lifecycle::source_policy(&*self.backend, from).await?;
        let policy = self.inherited_policy(&present, &earlier);
        Ok((policy != earlier).then_some(policy))
    }

    /// Returns the narrower of a present and an earlier policy, within the
    /// ceiling.
    pub(super) fn inherited_policy(&self, present: &Policy, earlier: &Policy) -> Policy {
        let default = &self.base_builder.defaults.policy;
        let policy = present.narrower(earlier, presets());
        within_ceiling(&policy, default, self.config.ceiling)
    }

    async fn begin(
        self: &Arc<Self>,
        request: CreateRequest,
        from: Option<String>,
        policy: Option<Policy>,
    ) -> Result<SandboxView> {
        let now = (self.clock)();
        let record = request.into_record(from, policy, now, &self.config)?;
        let view = SandboxView::new(&record, now, &self.config.limits);
        let name = record.name.clone();
        let limit = self.config.max_sandboxes;
        if !self.store.add(record, limit) {
            return Err(Error::TooMany {
                limit: limit.unwrap_or(u64::MAX),
            });
        }
        if let Err(error) = self.save().await {
            self.store.remove(&name);
            return Err(error);
        }
        tracing::info!(sandbox = name, "creating");
        self.spawn_create(name, Attempt::First);
        Ok(view)
    }

    /// Waits until the creation of a sandbox has finished, at most `limit`.
    pub async fn wait(&self, name: &str, limit: Duration) -> Result<SandboxView> {
        let created = async {
            // Subscribe before reading the record, so that no change is missed.
            let mut changed = self.changed.subscribe();
            while self.record(name)?.status == Status::Provisioning {
                let _ = changed.changed().await;
            }
            Ok::<(), Error>(())
        };
        if let Ok(outcome) = tokio::time::timeout(limit, created).await {
            outcome?;
        }
        self.view(name)
    }

    /// Destroys a sandbox whose creation is unfinished, because its client
    /// canceled the call and never gets the name. If the server is stopping,
    /// keeps the sandbox: the next server finishes the creation.
    pub async fn cancel_create(&self, name: &str) -> Error {
        let unfinished = self
            .record(name)
            .is_ok_and(|record| record.status == Status::Provisioning);
        if unfinished
            && !self.stopping().is_cancelled()
            && let Err(error) = self.destroy(name).await
        {
            return error;
        }
        Error::Interrupted("the client canceled the call; an unfinished sandbox is destroyed")
    }
}
