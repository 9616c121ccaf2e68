//! The background task that creates a sandbox: builds the base if needed,
//! creates or clones the pixel, and waits for provisioning.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::service::Service;
use super::state::{Record, Status};
use super::truncate;
use crate::egress::{self, Policy};
use crate::lifecycle::{self, BootStage, Lease, PixelRequest, PixelSource, provisioning};
use crate::model::{self, CloneSource, Instance, Limits, Name, Properties};
use crate::provision::Overall;

/// Property of a pixel: the owner id of the server that created it.
const OWNER: &str = "mcp-owner";
/// Property of a pixel: the record of its sandbox. Clones that this server did
/// not create inherit the record, but it contains the name of another pixel.
const RECORD: &str = "mcp-record";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    First,
    /// An earlier process may have started the creation: an incomplete pixel is
    /// deleted, a complete pixel is adopted.
    Resumed,
}

impl Service {
    pub(super) fn spawn_create(self: &Arc<Self>, name: String, attempt: Attempt) {
        let service = self.clone();
        self.tasks.spawn(async move {
            let lock = service.locks.get(&name);
            let interrupt = lock.token();
            let _guard = lock.write().await;
            let is_due = |it: &Record| !it.doomed && it.status == Status::Provisioning;
            let Some(record) = service.store.get(&name).filter(is_due) else {
                return;
            };
            let cancel = service.stopping().child_token();
            let create = service.create_or_adopt(&record, &cancel, attempt);
            tokio::pin!(create);
            let outcome = tokio::select! {
                outcome = &mut create => outcome,
                () = interrupt.cancelled() => {
                    cancel.cancel();
                    // The canceled creation deletes its pixel.
                    create.await
                }
            };
            service.record_result(&name, outcome).await;
        });
    }

    async fn record_result(&self, name: &str, outcome: Result<Option<String>>) {
        let now = (self.clock)();
        match outcome {
            Ok(fault) => {
                tracing::info!(sandbox = name, "ready");
                self.update(name, |record| {
                    record.status = Status::Running;
                    record.error = fault;
                    record.last_activity_at = now;
                });
            }
            // A destruction is in progress, or the next server resumes.
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::warn!(sandbox = name, %error, "cannot create");
                self.update(name, |record| {
                    record.status = Status::Failed;
                    record.error = Some(truncate::text(error.to_string()));
                });
            }
        }
        self.save_or_log().await;
    }

    /// Creates or adopts the pixel. Returns a problem of the usable sandbox.
    async fn create_or_adopt(
        self: &Arc<Self>,
        record: &Record,
        cancel: &CancellationToken,
        attempt: Attempt,
    ) -> Result<Option<String>> {
        let pixel: Name = record.name.parse()?;
        let adopted = attempt == Attempt::Resumed && self.adopt(&pixel, cancel).await?;
        let lease = match adopted {
            true => self.continue_lease(record, &pixel, cancel).await?,
            false => self.create_pixel(record, &pixel, cancel).await?,
        };
        // The boot deletes files in /tmp. A clone of a base is usable at once.
        if record.base.is_none() {
            let guest = self.backend.guest(&pixel);
            let boot = lifecycle::wait_for_boot(&*guest, BootStage::Sysinit);
            let outcome = match &lease {
                Some(lease) => lease.hold(boot).await,
                None => boot.await,
            };
            if let Err(error) = outcome {
                tracing::debug!(sandbox = record.name, %error, "waiting for the boot");
            }
        }
        let instance = self.backend.get(&pixel).await?;
        self.record_instance(&instance);
        self.wait_for_provisioning(&instance, lease, cancel).await
    }

    /// Starts a complete pixel, or deletes an incomplete pixel. Returns whether
    /// the pixel exists afterwards.
    async fn adopt(&self, pixel: &Name, cancel: &CancellationToken) -> Result<bool> {
        let backend = &*self.backend;
        let gateway = &self.base_builder.defaults.gateway;
        backend.wait_idle(pixel).await?;
        let instance = match backend.get(pixel).await {
            Ok(instance) => instance,
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !self.owns(&instance) {
            return Err(Error::invalid(format!(
                "the name {:?} is in use by a pixel of another owner",
                pixel.as_str()
            )));
        }
        if lifecycle::may_be_incomplete(&instance) {
            lifecycle::destroy(backend, gateway, pixel).await?;
            return Ok(false);
        }
        lifecycle::start(backend, cancel, gateway, pixel, &|_| {}).await?;
        Ok(true)
    }

    /// Begins a provisioning lease for a pixel whose steps an earlier process
    /// started. A clone has no lease: root in its source may have changed the
    /// steps.
    async fn continue_lease(
        &self,
        record: &Record,
        pixel: &Name,
        cancel: &CancellationToken,
    ) -> Result<Option<Lease<'_>>> {
        let backend = &*self.backend;
        let is_clone = record.from.is_some() || record.base.is_some();
        if is_clone || !provisioning::is_unfinished(&backend.get(pixel).await?) {
            return Ok(None);
        }
        let gateway = &self.base_builder.defaults.gateway;
        Ok(Lease::begin(backend, cancel, gateway, pixel).await?)
    }

    async fn create_pixel(
        self: &Arc<Self>,
        record: &Record,
        pixel: &Name,
        cancel: &CancellationToken,
    ) -> Result<Option<Lease<'_>>> {
        let backend = &*self.backend;
        let defaults = &self.base_builder.defaults;
        let parse = |text: &String| Policy::from_record(Some(text));
        let policy = record.policy.as_ref().map(parse).transpose();
        let mut policy = policy.map_err(|e| model::Error::Protocol(e.to_string()))?;
        let text = serde_json::to_string(record).map_err(|e| Error::State(e.into()))?;
        let mut properties = Properties::from([
            (OWNER.to_owned(), self.owner.clone()),
            (RECORD.to_owned(), text),
        ]);
        // Prevents a stop or destruction of the source during the copy.
        let mut _source_guard = None;
        let source = match (&record.from, &record.base) {
            (Some(from), _) => {
                let from: CloneSource = from.parse()?;
                _source_guard = Some(self.lock_of(from.pixel.as_str())?.read().await);
                self.finish_restore(&from.pixel).await?;
                policy = self.clone_policy(&from).await?;
                PixelSource::Clone(from)
            }
            (None, Some(base)) => {
                let from = self.base_checkpoint(base, cancel).await?;
                if policy.is_none() {
                    policy = self.clone_policy(&from).await?;
                }
                PixelSource::Clone(from)
            }
            (None, None) => {
                PixelSource::Image(defaults.resolve_image(backend, &record.image).await?)
            }
        };
        if let PixelSource::Clone(from) = &source {
            properties.insert("from".into(), from.to_string());
        }
        let request = PixelRequest {
            name: pixel.clone(),
            source,
            limits: Limits {
                cpu: record.cpu.clone(),
                memory: record.memory,
                disk: record.disk,
            },
            policy,
            properties,
        };
        let progress = |phase: &str| tracing::debug!(sandbox = record.name, phase);
        let created = defaults.create_pixel(backend, cancel, request, &progress);
        Ok(created.await?)
    }

    /// Returns the checkpoint to clone for a base. Builds a base that is not
    /// ready. `cancel` ends the wait but not the build: other sandboxes may
    /// wait for the build, and clients with a short time limit would otherwise
    /// cancel every build.
    async fn base_checkpoint(
        self: &Arc<Self>,
        base: &str,
        cancel: &CancellationToken,
    ) -> Result<CloneSource> {
        let (service, base) = (self.clone(), base.to_owned());
        let building = self
            .tasks
            .spawn(async move { service.build_base(&base).await });
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Interrupted("waiting for the base")),
            built = building => built.unwrap_or(Err(Error::Interrupted("building the base"))),
        }
    }

    /// Waits for provisioning. Returns a description of a failed step.
    async fn wait_for_provisioning(
        &self,
        instance: &Instance,
        lease: Option<Lease<'_>>,
        cancel: &CancellationToken,
    ) -> Result<Option<String>> {
        let mut fault = None;
        let backend = &*self.backend;
        if lease.is_some() || provisioning::is_unfinished(instance) {
            let name = &instance.name;
            let report =
                lifecycle::finish_provisioning(backend, cancel, name, lease, &|_| {}).await?;
            if report.overall == Overall::Failed
                && let Some(step) = report.failed()
            {
                fault = Some(truncate::text(format!(
                    "provisioning step {:?} failed ({}); the sandbox is usable, the output is in \
                     {}",
                    step.name, step.last_line, step.log
                )));
            }
        }
        Ok(fault)
    }

    /// Whether the properties of the pixel contain the owner id of this server.
    pub(super) fn owns(&self, instance: &Instance) -> bool {
        instance.properties.get(OWNER) == Some(&self.owner) && record_on(instance).is_some()
    }

    /// Updates the policy and address in the sandbox's record.
    pub(super) fn record_instance(&self, instance: &Instance) {
        let policy = lifecycle::recorded_policy(instance).ok();
        // A gateway assigns the address before the pixel uses it.
        let address = instance.addresses.first().copied();
        let address = address.or_else(|| egress::gateway::address_of(instance));
        self.update(instance.name.as_str(), |record| {
            record.egress = policy.map(|it| it.mode.to_string());
            if let Some(address) = address {
                record.ip = Some(address.to_string());
            }
        });
    }
}

/// Returns the record stored on the pixel, or `None` if the record contains the
/// name of another pixel.
pub(super) fn record_on(instance: &Instance) -> Option<Record> {
    let text = instance.properties.get(RECORD)?;
    let record: Record = serde_json::from_str(text).ok()?;
    (record.name == instance.name.as_str()).then_some(record)
}
