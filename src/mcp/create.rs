//! How a sandbox comes to be, in the background: its base first where it has
//! one, then the pixel, then its provisioning. What a killed server left
//! half-made is removed and made again.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::service::{Service, parse};
use super::state::{Record, Status};
use crate::egress::{self, Policy};
use crate::lifecycle::{self, Create, Fork, Names, provisioning};
use crate::model::{self, CloneSource, ExecRequest, Instance, Limits, Name, Properties};
use crate::provision::Overall;

/// The server whose sandbox a pixel is.
pub(super) const OWNER: &str = "mcp-owner";
/// The record of a sandbox, on its pixel. A clone made by other means inherits
/// it, but not the name in it.
pub(super) const RECORD: &str = "mcp-record";

impl Service {
    /// `again`: an earlier process may have begun it.
    pub(super) fn spawn_create(self: &Arc<Self>, name: String, again: bool) {
        let service = self.clone();
        self.tasks.spawn(async move {
            let slot = service.locks.get(&name);
            let token = slot.token();
            let _alone = slot.write().await;
            let due = |it: &Record| !it.doomed && it.status == Status::Provisioning;
            let Some(record) = service.store.get(&name).filter(due) else {
                return;
            };
            let cancel = service.stopping().child_token();
            let made = service.create_or_adopt(&record, &cancel, again);
            let outcome = forward(made, &cancel, &token).await;
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
            // It is to be destroyed, or the next start goes on with it.
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::warn!(sandbox = name, %error, "create failed");
                self.update(name, |record| {
                    record.status = Status::Failed;
                    record.error = Some(error.to_string());
                });
            }
        }
        if let Err(error) = self.store.save().await {
            tracing::error!(%error, "saving the state");
        }
    }

    /// Returns what is wrong with a sandbox that can be used all the same.
    async fn create_or_adopt(
        self: &Arc<Self>,
        record: &Record,
        cancel: &CancellationToken,
        again: bool,
    ) -> Result<Option<String>> {
        let pixel: Name = parse(&record.name)?;
        if !again || !self.adopt(&pixel, cancel).await? {
            self.make_pixel(record, &pixel, cancel).await?;
        }
        // What comes from a base is made to be worked in at once.
        if record.base.is_none() {
            self.wait_for_boot(&pixel).await;
        }
        let instance = self.backend.get(&pixel).await?;
        self.note_facts(&instance);
        self.wait_for_provisioning(&instance, cancel).await
    }

    /// Whether the pixel is there and whole; what is half-made is removed.
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
                "another pixel is called {:?} by now",
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

    async fn make_pixel(
        self: &Arc<Self>,
        record: &Record,
        pixel: &Name,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let backend = &*self.backend;
        let defaults = &self.base_builder.defaults;
        let progress = |phase: &str| tracing::debug!(sandbox = record.name, phase);
        let asked = match &record.policy {
            None => None,
            Some(text) => Some(
                Policy::from_record(Some(text))
                    .map_err(|e| model::Error::Protocol(e.to_string()))?,
            ),
        };
        let usual = defaults.policy.in_mode(defaults.policy.mode);
        let marks = self.ownership_properties(record)?;
        let given = Limits {
            cpu: record.cpu.clone(),
            memory: record.memory,
        };
        // A source must not change while it is copied.
        let mut _shared = None;
        let origin: Option<CloneSource> = match (&record.from, &record.base) {
            (Some(from), _) => {
                let origin: CloneSource = parse(from)?;
                _shared = Some(self.lock_of(origin.pixel.as_str())?.read().await);
                Some(origin)
            }
            (None, Some(base)) => Some(self.origin(base, cancel).await?),
            (None, None) => None,
        };
        if let Some(from) = origin {
            let mut properties =
                lifecycle::clone_policy_properties(backend, asked.as_ref(), &usual, &from).await?;
            properties.extend(marks);
            properties.insert("from".into(), from.to_string());
            let request = Fork {
                from,
                names: Names::One(pixel.clone()),
                limits: given,
                properties,
                network: defaults.network.clone(),
            };
            lifecycle::fork(backend, cancel, request, &progress, &|_| {}).await?;
            return Ok(());
        }
        let policy = asked.unwrap_or(usual);
        let mut properties = defaults
            .network
            .new_policy_properties(&policy, defaults.plan.is_some());
        properties.extend(marks);
        let request = Create {
            name: pixel.clone(),
            image: defaults.resolve_image(backend, &record.image).await?,
            limits: Limits {
                cpu: given.cpu.or_else(|| defaults.limits.cpu.clone()),
                memory: given.memory.or(defaults.limits.memory),
            },
            properties,
            provision: defaults.plan.clone(),
            network: defaults.network.clone(),
        };
        Ok(lifecycle::create(backend, cancel, request, &progress).await?)
    }

    /// What to clone for a base. Its build goes on when this sandbox is wanted
    /// no more: others may wait for it, and who gave up after a minute would
    /// never get one that takes longer.
    async fn origin(
        self: &Arc<Self>,
        base: &str,
        cancel: &CancellationToken,
    ) -> Result<CloneSource> {
        let (service, base) = (self.clone(), base.to_owned());
        let building = self.tasks.spawn(async move {
            let (base_builder, backend) = (&service.base_builder, &*service.backend);
            let building = service
                .builder
                .origin(base_builder, backend, service.stopping(), &base);
            building.await
        });
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Interrupted("waiting for its base")),
            built = building => {
                built.unwrap_or(Err(Error::Interrupted("the build of its base")))
            }
        }
    }

    /// Waits until files in /tmp stay there. Best effort.
    async fn wait_for_boot(&self, pixel: &Name) {
        let script = include_str!("guest/booted.sh");
        let request = ExecRequest::root(["/bin/sh", "-c", script, "booted"]);
        if let Err(error) = self.backend.guest(pixel).output(&request).await {
            tracing::debug!(sandbox = pixel.as_str(), %error, "waiting for the boot");
        }
    }

    /// Waits for the steps of provisioning, and ends what was allowed for them.
    async fn wait_for_provisioning(
        &self,
        instance: &Instance,
        cancel: &CancellationToken,
    ) -> Result<Option<String>> {
        let mut fault = None;
        let backend = &*self.backend;
        if provisioning::is_unfinished(instance) {
            let waiting = provisioning::wait(backend, &instance.name, &|_| {});
            let report = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::Interrupted("its provisioning")),
                report = waiting => report?,
            };
            if report.overall == Overall::Failed
                && let Some(step) = report.failed()
            {
                fault = Some(format!(
                    "the step {:?} of its provisioning failed ({}); it can be used, {} has the \
                     whole output",
                    step.name, step.last_line, step.log
                ));
            }
        }
        if instance.properties.contains_key(egress::INTERIM) {
            lifecycle::end_interim_policy(
                backend,
                &self.base_builder.defaults.gateway,
                &instance.name,
            )
            .await?;
        }
        Ok(fault)
    }

    /// What a pixel says of whose it is.
    fn ownership_properties(&self, record: &Record) -> Result<Properties> {
        let text = serde_json::to_string(record).map_err(|e| Error::State(e.into()))?;
        Ok(Properties::from([
            (OWNER.to_owned(), self.options.owner.clone()),
            (RECORD.to_owned(), text),
        ]))
    }

    /// Whether the pixel is a sandbox of this server, by its own word.
    pub(super) fn owns(&self, instance: &Instance) -> bool {
        instance.properties.get(OWNER) == Some(&self.options.owner)
            && self.recorded_on(instance).is_some()
    }

    pub(super) fn recorded_on(&self, instance: &Instance) -> Option<Record> {
        let text = instance.properties.get(RECORD)?;
        let record: Record = serde_json::from_str(text).ok()?;
        (record.name == instance.name.as_str()).then_some(record)
    }

    /// What listings show of a pixel.
    pub(super) fn note_facts(&self, instance: &Instance) {
        let policy = lifecycle::recorded_policy(instance).ok();
        // Behind a gateway the address is given, and known before it is used.
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

/// Runs `work`, and tells it to end when `token` is cancelled.
async fn forward<T>(
    work: impl Future<Output = T>,
    cancel: &CancellationToken,
    token: &CancellationToken,
) -> T {
    tokio::pin!(work);
    tokio::select! {
        outcome = &mut work => return outcome,
        () = token.cancelled() => cancel.cancel(),
    }
    work.await
}
