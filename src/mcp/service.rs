//! What the tools do, free of the protocol: sandboxes are made, found, stopped
//! and removed by the same functions as on the command line.
//!
//! Only sandboxes on record are touched. Lock order: a sandbox's slot first,
//! then another's (the source of a clone) to share; the builder's turn after
//! slots; the store's own locks last and never across a request.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::base_builds::Builder;
use super::create_request::{CreateRequest, PendingSandbox};
use super::egress_ceiling;
use super::error::{Error, Result};
use super::locks::{ReadGuard, SandboxLock, SandboxLocks};
use super::reaper;
use super::response::View;
use super::state::{Record, Status, Store};
use crate::base::BaseBuilder;
use crate::egress::Mode;
use crate::lifecycle;
use crate::model::{Backend, Label, Name};

/// For a pixel to shut down by itself.
const GRACE: Duration = Duration::from_secs(10);

/// Tells the time; tests have one of their own.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

#[derive(Debug, Clone)]
pub struct Options {
    /// How the names of sandboxes begin.
    pub prefix: String,
    pub limits: reaper::Limits,
    pub exec_timeout_max: Duration,
    pub max_sandboxes: Option<u64>,
    pub ceiling: Mode,
    /// On every pixel of ours: which server's it is.
    pub owner: String,
}

pub struct Service {
    pub(super) backend: Box<dyn Backend>,
    pub(super) base_builder: BaseBuilder,
    pub(super) options: Options,
    pub(super) store: Store,
    pub(super) locks: SandboxLocks,
    pub(super) builder: Builder,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTracker,
    pub(super) changed: tokio::sync::Notify,
    stop: CancellationToken,
}

impl Service {
    pub fn new(
        backend: Box<dyn Backend>,
        base_builder: BaseBuilder,
        options: Options,
        store: Store,
        clock: Clock,
    ) -> Self {
        Self {
            backend,
            base_builder,
            options,
            store,
            locks: SandboxLocks::default(),
            builder: Builder::default(),
            clock,
            tasks: TaskTracker::new(),
            changed: tokio::sync::Notify::new(),
            stop: CancellationToken::new(),
        }
    }

    pub fn records(&self) -> Vec<Record> {
        self.store.all()
    }

    /// Cancelled when the server is to end.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Ends what is under way and waits for it, so that nothing half-made is
    /// left; then everything is on record.
    pub async fn close(&self, limit: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("not everything under way has ended; the next start goes on with it");
        }
        if let Err(error) = self.store.save().await {
            tracing::error!(%error, "saving the state");
        }
        self.backend.close(limit).await;
    }

    /// Begins to make a sandbox; it is on record when this returns.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<View> {
        if request.base.is_some() && request.image.is_some() {
            return Err(Error::invalid("give either base or image, not both"));
        }
        if let Some(base) = &request.base {
            self.base_builder.pixel(base)?;
            if let Some(failure) = self.builder.failure(base)
                && self
                    .base_builder
                    .ready_checkpoint(&*self.backend, base)
                    .await?
                    .is_none()
            {
                return Err(Error::invalid(format!(
                    "base {base:?} failed to build a short time ago: {failure}"
                )));
            }
        }
        let usual = &self.base_builder.defaults.policy;
        let policy = egress_ceiling::requested_policy(
            request.egress.as_deref(),
            &request.allow,
            usual,
            self.options.ceiling,
        )?;
        let image = match (&request.base, request.image) {
            (None, None) => self.base_builder.defaults.image.clone(),
            (_, image) => image.unwrap_or_default(),
        };
        self.begin(PendingSandbox {
            label: request.label,
            image,
            base: request.base,
            from: None,
            policy,
            cpu: request.cpu,
            memory: request.memory,
            ttl: request.ttl,
        })
        .await
    }

    /// Begins to clone a sandbox, policy included.
    pub async fn fork(
        self: &Arc<Self>,
        source: &str,
        checkpoint: Option<&str>,
        label: Option<String>,
        ttl: Option<String>,
    ) -> Result<View> {
        let (source, _, _) = self.lock_for_use(source).await?;
        let from = match checkpoint {
            None => source.name.clone(),
            Some(label) => {
                let label = parse::<Label>(label)?;
                let name = parse::<Name>(&source.name)?;
                self.has_checkpoint(&name, &label).await?;
                format!("{}:{label}", source.name)
            }
        };
        self.begin(PendingSandbox {
            label,
            image: source.image,
            base: source.base,
            from: Some(from),
            policy: None,
            cpu: None,
            memory: None,
            ttl,
        })
        .await
    }

    async fn begin(self: &Arc<Self>, draft: PendingSandbox) -> Result<View> {
        let now = (self.clock)();
        let record = draft.record(now, &self.options)?;
        let view = View::new(&record, now, &self.options.limits);
        let name = record.name.clone();
        let limit = self.options.max_sandboxes;
        if !self.store.add(record, limit) {
            return Err(Error::TooMany {
                limit: limit.unwrap_or(u64::MAX),
            });
        }
        if let Err(error) = self.store.save().await {
            self.store.remove(&name);
            return Err(Error::State(error));
        }
        tracing::info!(sandbox = name, "create");
        self.spawn_create(name, false);
        Ok(view)
    }

    /// Returns when a sandbox is no longer in the making, or `limit` is over.
    pub async fn wait(&self, name: &str, limit: Duration) -> Result<View> {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let record = self.record(name)?;
                if record.status != Status::Provisioning {
                    return Ok::<(), Error>(());
                }
                changed.await;
            }
        };
        if let Ok(outcome) = tokio::time::timeout(limit, settled).await {
            outcome?;
        }
        self.view(name)
    }

    /// For a client that gave up before it was told of a sandbox it wanted:
    /// removes it, unless it is finished by now.
    pub async fn cancel_create(&self, name: &str) -> Error {
        // The next start goes on with what the end of this server cut short.
        let wanted = self.stop.is_cancelled()
            || !self
                .record(name)
                .is_ok_and(|it| it.status == Status::Provisioning);
        if !wanted && let Err(error) = self.destroy(name).await {
            return error;
        }
        Error::Interrupted("the client gave up, and what was not finished was removed")
    }

    pub async fn list(&self) -> Result<Vec<View>> {
        self.reconcile().await?;
        let now = (self.clock)();
        let all = self.store.all();
        Ok(all
            .iter()
            .map(|it| View::new(it, now, &self.options.limits))
            .collect())
    }

    pub async fn start(&self, name: &str) -> Result<View> {
        let slot = self.lock_of(name)?;
        let _alone = slot.write().await;
        let record = self.record(name)?;
        if record.status == Status::Provisioning {
            return Err(not_running(&record));
        }
        let pixel = parse::<Name>(name)?;
        let gateway = &self.base_builder.defaults.gateway;
        lifecycle::start(&*self.backend, &self.stop, gateway, &pixel, &|_| {}).await?;
        self.note_facts(&self.backend.get(&pixel).await?);
        let now = (self.clock)();
        self.update(name, |record| {
            record.status = Status::Running;
            record.error = None;
            record.last_activity_at = now;
        });
        self.store.save().await.map_err(Error::State)?;
        self.view(name)
    }

    pub async fn stop(&self, name: &str) -> Result<()> {
        let slot = self.lock_of(name)?;
        if self.record(name)?.status == Status::Provisioning {
            return Err(not_running(&self.record(name)?));
        }
        slot.interrupt();
        let _alone = slot.write().await;
        self.record(name)?;
        self.stop_pixel(name).await
    }

    /// The caller has the sandbox alone.
    pub(super) async fn stop_pixel(&self, name: &str) -> Result<()> {
        self.backend.stop(&parse(name)?, GRACE).await?;
        self.update(name, |record| {
            record.status = Status::Stopped;
            record.ip = None;
        });
        self.store.save().await.map_err(Error::State)
    }

    /// Removes a sandbox, whatever it does; gone already counts as done.
    pub async fn destroy(&self, name: &str) -> Result<()> {
        let slot = self.lock_of(name)?;
        // From now on a restart finishes it.
        self.update(name, |record| record.doomed = true);
        self.store.save().await.map_err(Error::State)?;
        slot.interrupt();
        let _alone = slot.write().await;
        if self.store.get(name).is_none() {
            return Ok(());
        }
        let gateway = &self.base_builder.defaults.gateway;
        match lifecycle::destroy(&*self.backend, gateway, &parse(name)?).await {
            Err(error) if !error.is_not_found() => {
                self.update(name, |record| record.doomed = false);
                return Err(error.into());
            }
            _ => {}
        }
        tracing::info!(sandbox = name, "destroyed");
        self.store.remove(name);
        self.locks.forget(name);
        self.changed.notify_waiters();
        self.store.save().await.map_err(Error::State)
    }

    /// What the sandbox was refused, the latest first.
    pub async fn denials(&self, name: &str) -> Result<Vec<crate::egress::Denial>> {
        self.record(name)?;
        let instance = self.backend.get(&parse(name)?).await?;
        let gateway_spec = &self.base_builder.defaults.gateway;
        Ok(lifecycle::denials(&*self.backend, gateway_spec, &instance).await?)
    }

    /// For work in a sandbox: its record, and a share of its gate.
    pub(super) async fn lock_for_use(&self, name: &str) -> Result<(Record, Name, ReadGuard)> {
        let slot = self.lock_of(name)?;
        let before = self.record(name)?;
        // Its maker has the gate, and says itself when it is done.
        if before.status == Status::Provisioning {
            return Err(not_running(&before));
        }
        let shared = slot.read().await;
        let record = self.record(name)?;
        let pixel = parse(&record.name)?;
        Ok((record, pixel, shared))
    }

    pub(super) fn lock_of(&self, name: &str) -> Result<Arc<SandboxLock>> {
        self.record(name)?;
        Ok(self.locks.get(name))
    }

    /// The record of a sandbox that is ours.
    pub(super) fn record(&self, name: &str) -> Result<Record> {
        self.store
            .get(name)
            .ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    pub(super) fn update(&self, name: &str, change: impl FnOnce(&mut Record)) {
        self.store.update(name, change);
        self.changed.notify_waiters();
    }

    pub(super) fn view(&self, name: &str) -> Result<View> {
        let record = self.record(name)?;
        Ok(View::new(&record, (self.clock)(), &self.options.limits))
    }

    /// Notes that the sandbox is in use.
    pub(super) fn touch(&self, name: &str) {
        let now = (self.clock)();
        self.store
            .update(name, |record| record.last_activity_at = now);
    }
}

pub(super) fn not_running(record: &Record) -> Error {
    Error::NotRunning {
        name: record.name.clone(),
        status: record.status,
        why: record.error.clone(),
    }
}

pub(super) fn parse<T>(text: &str) -> Result<T>
where
    T: std::str::FromStr<Err = crate::model::InvalidName>,
{
    text.parse()
        .map_err(|e: crate::model::InvalidName| Error::invalid(e.to_string()))
}
