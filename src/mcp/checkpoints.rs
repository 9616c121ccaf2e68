//! Checkpoints of a sandbox.

use std::sync::Arc;

use super::error::{Error, Result};
use super::response::SandboxView;
use super::service::Service;
use super::state::Restoring;
use super::truncate;
use crate::egress::Policy;
use crate::lifecycle;
use crate::model::{CloneSource, Label, Name};

impl Service {
    /// Creates a checkpoint of the disk while the sandbox keeps running, and
    /// returns its label. The default label is the time in milliseconds.
    pub async fn checkpoint(&self, name: &str, label: Option<&str>) -> Result<String> {
        let (_, pixel, _guard) = self.lock_for_use(name).await?;
        let label: Label = match label {
            Some(label) => label.parse()?,
            None => {
                let now = (self.clock)().unix_timestamp_nanos() / 1_000_000;
                format!("mcp-{now}").parse()?
            }
        };
        self.backend.checkpoint(&pixel, &label, None).await?;
        Ok(label.to_string())
    }

    /// Interrupts work in the sandbox and restores its disk. The sandbox gets
    /// the narrower of its policy and that of the checkpoint, within the
    /// ceiling. Fails if the restore would delete newer checkpoints.
    ///
    /// If the call is dropped, the restore continues in the background.
    pub async fn restore(self: &Arc<Self>, name: &str, label: &str) -> Result<SandboxView> {
        let label: Label = label.parse()?;
        let lock = self.lock_of(name)?;
        lock.interrupt();
        let guard = lock.write().await;
        self.created_record(name)?;
        let pixel: Name = name.parse()?;
        self.finish_restore(&pixel).await?;
        self.check_checkpoint(&pixel, &label).await?;
        let newer = self.backend.newer_checkpoints(&pixel, &label).await?;
        if !newer.is_empty() {
            return Err(Error::invalid(format!(
                "cannot restore {label}: that would delete the newer checkpoints {}, which only \
                 the operator of this server can do",
                truncate::names(&newer)
            )));
        }
        let service = self.clone();
        let restoring = async move {
            let _guard = guard;
            let defaults = &service.base_builder.defaults;
            let (backend, gateway) = (&*service.backend, &defaults.gateway);
            service.record_restore(&pixel, &label).await?;
            let choose =
                |present: &Policy, earlier: &Policy| service.inherited_policy(present, earlier);
            let restored =
                lifecycle::restore(backend, gateway, &pixel, &label, Some(&choose)).await;
            let finished = service.finish_restore(&pixel).await;
            restored?;
            finished?;
            service.record_instance(&backend.get(&pixel).await?);
            Ok::<(), Error>(())
        };
        match self.tasks.spawn(restoring).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Error::Interrupted("restoring the checkpoint")),
        }
        self.touch(name);
        self.view(name)
    }

    /// Saves the policy that a restore applies, so that a killed server cannot leave the
    /// sandbox with the policy of the checkpoint.
    async fn record_restore(&self, pixel: &Name, label: &Label) -> Result<()> {
        let backend = &*self.backend;
        let before = lifecycle::recorded_policy(&backend.get(pixel).await?)?;
        let from = CloneSource {
            pixel: pixel.clone(),
            label: Some(label.clone()),
        };
        let earlier = lifecycle::source_policy(backend, &from).await?;
        let restoring = Restoring {
            before: before.to_record(),
            after: self.inherited_policy(&before, &earlier).to_record(),
        };
        self.update(pixel.as_str(), |record| record.restoring = Some(restoring));
        self.save().await
    }

    /// Narrows the policy of a sandbox to that of an interrupted restore, if there was
    /// one, unless its policy is the one before the restore. Until this succeeds, the
    /// sandbox is not used. The caller holds a lock of the sandbox.
    pub(super) async fn finish_restore(&self, pixel: &Name) -> Result<()> {
        let backend = &*self.backend;
        let restoring = || Ok::<_, Error>(self.record(pixel.as_str())?.restoring);
        if restoring()?.is_none() {
            return Ok(());
        }
        let _guard = self.finishing.lock().await;
        let Some(restoring) = restoring()? else {
            return Ok(());
        };
        backend.wait_until_unchanged(pixel).await?;
        let found = lifecycle::recorded_policy(&backend.get(pixel).await?)?;
        let is_restored = restoring.before != found.to_record();
        let after = Policy::from_record(Some(&restoring.after))
            .map_err(|error| Error::invalid(format!("the record of sandbox {pixel}: {error}")))?;
        let narrowed = self.inherited_policy(&found, &after);
        if is_restored && narrowed != found {
            let gateway = &self.base_builder.defaults.gateway;
            let narrow = |policy: &mut Policy| {
                *policy = self.inherited_policy(policy, &after);
                Ok(())
            };
            lifecycle::change_policy(backend, &self.stop, gateway, pixel, &narrow).await?;
        }
        self.update(pixel.as_str(), |record| record.restoring = None);
        self.save().await
    }

    /// Returns the labels of all non-temporary checkpoints, oldest first.
    pub async fn checkpoints(&self, name: &str) -> Result<Vec<String>> {
        let all = self.backend.checkpoints(&name.parse()?).await?;
        let lasting = all.into_iter().filter(|it| !it.temporary);
        Ok(lasting.map(|it| it.label.to_string()).collect())
    }

    /// Fails, and lists the existing labels, if the checkpoint does not exist.
    pub(super) async fn check_checkpoint(&self, pixel: &Name, label: &Label) -> Result<()> {
        let labels = self.checkpoints(pixel.as_str()).await?;
        if labels.iter().any(|existing| existing == label.as_str()) {
            return Ok(());
        }
        let (sandbox, label) = (pixel.as_str(), label.as_str());
        Err(Error::invalid(if labels.is_empty() {
            format!("sandbox {sandbox:?} has no checkpoints: call checkpoint_sandbox first")
        } else {
            let labels = truncate::names(&labels);
            format!("sandbox {sandbox:?} has no checkpoint {label:?}; it has: {labels}")
        }))
    }
}
