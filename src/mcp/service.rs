//! What the tools do, free of the protocol: sandboxes are made, found, stopped
//! and removed by the same functions as on the command line.
//!
//! Only sandboxes on record are touched. Lock order: a sandbox's slot first,
//! then another's (the source of a clone) to share; the builder's turn after
//! slots; the store's own locks last and never across a request.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access;
use super::builder::Builder;
use super::error::{Error, Result};
use super::locks::{Locks, Shared, Slot};
use super::reaper;
use super::state::{Record, Status, Store};
use crate::base::Workshop;
use crate::egress::{Mode, Policy};
use crate::lifecycle::{self, gateway};
use crate::sandbox::{Label, Name, Sandbox};

/// For a pixel to shut down by itself.
const GRACE: Duration = Duration::from_secs(20);

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
    pub(super) sandbox: Box<dyn Sandbox>,
    pub(super) workshop: Workshop,
    pub(super) options: Options,
    pub(super) store: Store,
    pub(super) locks: Locks,
    pub(super) builder: Builder,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTracker,
    pub(super) changed: tokio::sync::Notify,
    stop: CancellationToken,
}

/// What a client wants made.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub label: Option<String>,
    pub image: Option<String>,
    pub base: Option<String>,
    pub egress: Option<String>,
    pub allow: Vec<String>,
    pub cpu: Option<String>,
    /// MiB, or with a unit.
    pub memory: Option<String>,
    pub ttl: Option<String>,
}

/// A sandbox as clients see it.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct View {
    /// Names the sandbox in every other call.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub status: Status,
    /// Why it failed, or what is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Empty until it has one.
    pub ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    pub created_at: String,
    pub last_activity_at: String,
    /// Such as 1h2m3s. A sandbox that is idle for long is stopped, not lost.
    pub idle_for: String,
    /// When it is destroyed at the latest.
    pub expires_at: String,
}

impl Service {
    pub fn new(
        sandbox: Box<dyn Sandbox>,
        workshop: Workshop,
        options: Options,
        store: Store,
        clock: Clock,
    ) -> Self {
        Self {
            sandbox,
            workshop,
            options,
            store,
            locks: Locks::default(),
            builder: Builder::default(),
            clock,
            tasks: TaskTracker::new(),
            changed: tokio::sync::Notify::new(),
            stop: CancellationToken::new(),
        }
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
        self.sandbox.close(limit).await;
    }

    /// Begins to make a sandbox; it is on record when this returns.
    pub async fn create(self: &Arc<Self>, wish: Wish) -> Result<View> {
        if wish.base.is_some() && wish.image.is_some() {
            return Err(Error::invalid("give either base or image, not both"));
        }
        if let Some(base) = &wish.base {
            self.workshop.pixel(base)?;
            if let Some(failure) = self.builder.failure(base)
                && self.workshop.source(&*self.sandbox, base).await?.is_none()
            {
                return Err(Error::invalid(format!(
                    "base {base:?} failed to build a short time ago: {failure}"
                )));
            }
        }
        let usual = &self.workshop.site.policy;
        let policy = access::asked(
            wish.egress.as_deref(),
            &wish.allow,
            usual,
            self.options.ceiling,
        )?;
        let image = match (&wish.base, wish.image) {
            (None, None) => self.workshop.site.image.clone(),
            (_, image) => image.unwrap_or_default(),
        };
        self.begin(Draft {
            label: wish.label,
            image,
            base: wish.base,
            from: None,
            policy,
            cpu: wish.cpu,
            memory: wish.memory,
            ttl: wish.ttl,
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
        let (source, _, _) = self.enter(source).await?;
        let from = match checkpoint {
            None => source.name.clone(),
            Some(label) => {
                let label = parse::<Label>(label)?;
                let name = parse::<Name>(&source.name)?;
                let all = self.sandbox.checkpoints(&name).await?;
                if !all.iter().any(|it| it.label == label) {
                    let known: Vec<&str> = all.iter().map(|it| it.label.as_str()).collect();
                    return Err(Error::invalid(format!(
                        "sandbox {:?} has no checkpoint {:?}; it has: {}",
                        source.name,
                        label.as_str(),
                        known.join(", ")
                    )));
                }
                format!("{}:{label}", source.name)
            }
        };
        self.begin(Draft {
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

    async fn begin(self: &Arc<Self>, draft: Draft) -> Result<View> {
        let now = (self.clock)();
        let record = draft.record(now, &self.options)?;
        let view = self.view(&record, now);
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
        self.spawn_making(name, false);
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
        Ok(self.view(&self.record(name)?, (self.clock)()))
    }

    pub async fn list(&self) -> Result<Vec<View>> {
        self.reconcile().await?;
        let now = (self.clock)();
        let all = self.store.all();
        Ok(all.iter().map(|it| self.view(it, now)).collect())
    }

    pub async fn start(&self, name: &str) -> Result<View> {
        let slot = self.slot(name)?;
        let _alone = slot.alone().await;
        let record = self.record(name)?;
        if record.status == Status::Provisioning {
            return Err(not_running(&record));
        }
        let pixel = parse::<Name>(name)?;
        let gateway = &self.workshop.site.gateway;
        lifecycle::start(&*self.sandbox, &self.stop, gateway, &pixel, &|_| {}).await?;
        self.note_facts(&self.sandbox.get(&pixel).await?);
        let now = (self.clock)();
        self.update(name, |record| {
            record.status = Status::Running;
            record.error = None;
            record.last_activity_at = now;
        });
        self.store.save().await.map_err(Error::State)?;
        Ok(self.view(&self.record(name)?, now))
    }

    pub async fn stop(&self, name: &str) -> Result<()> {
        let slot = self.slot(name)?;
        if self.record(name)?.status == Status::Provisioning {
            return Err(not_running(&self.record(name)?));
        }
        slot.interrupt();
        let _alone = slot.alone().await;
        self.record(name)?;
        self.stop_pixel(name).await
    }

    /// The caller has the sandbox alone.
    pub(super) async fn stop_pixel(&self, name: &str) -> Result<()> {
        self.sandbox.stop(&parse(name)?, GRACE).await?;
        self.update(name, |record| {
            record.status = Status::Stopped;
            record.ip = None;
        });
        self.store.save().await.map_err(Error::State)
    }

    /// Removes a sandbox, whatever it does; gone already counts as done.
    pub async fn destroy(&self, name: &str) -> Result<()> {
        let slot = self.slot(name)?;
        // From now on a restart finishes it.
        self.update(name, |record| record.doomed = true);
        self.store.save().await.map_err(Error::State)?;
        slot.interrupt();
        let _alone = slot.alone().await;
        if self.store.get(name).is_none() {
            return Ok(());
        }
        let gateway = &self.workshop.site.gateway;
        match lifecycle::destroy(&*self.sandbox, gateway, &parse(name)?).await {
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

    /// Takes a checkpoint of the disk; work in the sandbox goes on meanwhile.
    pub async fn checkpoint(&self, name: &str, label: Option<&str>) -> Result<String> {
        let (_, pixel, _shared) = self.enter(name).await?;
        let label = match label {
            Some(label) => parse::<Label>(label)?,
            None => {
                let now = (self.clock)();
                parse(&format!("mcp-{}", now.unix_timestamp_nanos() / 1_000_000))?
            }
        };
        self.sandbox.checkpoint(&pixel, &label, None).await?;
        Ok(label.to_string())
    }

    /// Puts the disk back; what runs in the sandbox ends.
    pub async fn restore(&self, name: &str, label: &str) -> Result<View> {
        let label = parse::<Label>(label)?;
        let slot = self.slot(name)?;
        slot.interrupt();
        let _alone = slot.alone().await;
        let record = self.record(name)?;
        if record.status == Status::Provisioning {
            return Err(not_running(&record));
        }
        let pixel = parse(name)?;
        let gateway = &self.workshop.site.gateway;
        lifecycle::restore(&*self.sandbox, gateway, &pixel, &label).await?;
        let now = (self.clock)();
        self.update(name, |record| record.last_activity_at = now);
        Ok(self.view(&self.record(name)?, now))
    }

    pub async fn checkpoints(&self, name: &str) -> Result<Vec<String>> {
        let all = self.sandbox.checkpoints(&parse(name)?).await?;
        let lasting = all.into_iter().filter(|it| !it.temporary);
        Ok(lasting.map(|it| it.label.to_string()).collect())
    }

    /// What the sandbox was refused, the latest first.
    pub async fn denials(&self, name: &str) -> Result<Vec<crate::egress::gateway::Denial>> {
        self.record(name)?;
        let instance = self.sandbox.get(&parse(name)?).await?;
        let like = &self.workshop.site.gateway;
        Ok(gateway::denials(&*self.sandbox, like, &instance).await?)
    }

    /// For work in a sandbox: its record, and a share of its gate.
    pub(super) async fn enter(&self, name: &str) -> Result<(Record, Name, Shared)> {
        let slot = self.slot(name)?;
        let before = self.record(name)?;
        // Its maker has the gate, and says itself when it is done.
        if before.status == Status::Provisioning {
            return Err(not_running(&before));
        }
        let shared = slot.share().await;
        let record = self.record(name)?;
        let pixel = parse(&record.name)?;
        Ok((record, pixel, shared))
    }

    pub(super) fn slot(&self, name: &str) -> Result<Arc<Slot>> {
        self.record(name)?;
        Ok(self.locks.of(name))
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

    /// Notes that the sandbox is in use.
    pub(super) fn touch(&self, name: &str) {
        let now = (self.clock)();
        self.store
            .update(name, |record| record.last_activity_at = now);
    }

    pub(super) fn view(&self, record: &Record, now: OffsetDateTime) -> View {
        let idle = (now - record.last_activity_at).unsigned_abs();
        View {
            name: record.name.clone(),
            label: record.label.clone(),
            status: record.status,
            error: record.error.clone(),
            ip: record.ip.clone().unwrap_or_default(),
            base: record.base.clone(),
            from: record.from.clone(),
            egress: record.egress.clone(),
            created_at: rfc3339(record.created_at),
            last_activity_at: rfc3339(record.last_activity_at),
            idle_for: short(idle),
            expires_at: rfc3339(reaper::end_of(record, &self.options.limits)),
        }
    }
}

/// A sandbox that is about to be made.
struct Draft {
    label: Option<String>,
    image: String,
    base: Option<String>,
    from: Option<String>,
    policy: Option<Policy>,
    cpu: Option<String>,
    memory: Option<String>,
    ttl: Option<String>,
}

impl Draft {
    fn record(self, now: OffsetDateTime, options: &Options) -> Result<Record> {
        if self
            .label
            .as_ref()
            .is_some_and(|it| it.chars().count() > 200)
        {
            return Err(Error::invalid("label: at most 200 characters"));
        }
        let ttl = match self.ttl.as_deref() {
            None => None,
            Some(text) => Some(crate::config::parse_duration(text).ok_or_else(|| {
                Error::invalid(format!(
                    "ttl {text:?}: use a time such as \"30m\" or \"2h\""
                ))
            })?),
        };
        let memory = match self.memory.as_deref() {
            None => None,
            Some(text) => Some(
                crate::sandbox::parse_memory(text)
                    .map_err(|e| Error::invalid(format!("memory {text:?}: {e}")))?,
            ),
        };
        let cpu_is_sound = |cpu: &String| {
            !cpu.is_empty()
                && cpu
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b",-".contains(&b))
        };
        if let Some(cpu) = self.cpu.as_ref().filter(|cpu| !cpu_is_sound(cpu)) {
            return Err(Error::invalid(format!(
                "cpu {cpu:?}: use a count such as \"2\" or a set such as \"0-3\""
            )));
        }
        let mut random = [0; 4];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|_| Error::invalid("no random numbers on this machine"))?;
        let name = format!("{}{:08x}", options.prefix, u32::from_ne_bytes(random));
        Ok(Record {
            name: parse::<Name>(&name)?.to_string(),
            label: self.label,
            image: self.image,
            base: self.base,
            from: self.from,
            ip: None,
            status: Status::Provisioning,
            error: None,
            created_at: now,
            last_activity_at: now,
            expires_at: ttl.map(|ttl| now + ttl),
            egress: self.policy.as_ref().map(|it| it.mode.to_string()),
            policy: self.policy.map(|it| it.to_record()),
            cpu: self.cpu,
            memory,
            doomed: false,
        })
    }
}

pub(super) fn not_running(record: &Record) -> Error {
    Error::NotRunning {
        name: record.name.clone(),
        status: record.status,
    }
}

pub(super) fn parse<T>(text: &str) -> Result<T>
where
    T: std::str::FromStr<Err = crate::sandbox::InvalidName>,
{
    text.parse()
        .map_err(|e: crate::sandbox::InvalidName| Error::invalid(e.to_string()))
}

fn rfc3339(at: OffsetDateTime) -> String {
    let seconds = at.replace_nanosecond(0).unwrap_or(at);
    seconds.format(&Rfc3339).unwrap_or_default()
}

/// Whole seconds, such as `1h2m3s`.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}
