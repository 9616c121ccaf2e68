//! The implementation of the tools, independent of the protocol. Sandboxes are
//! created, started, stopped and destroyed by the functions that the command
//! line uses. Pixels without a sandbox record are never changed.
//!
//! Lock order: the lock of a sandbox, then the read lock of another sandbox
//! (the source of a clone), then the build lock of a base, then the locks of
//! the store, which are never held during a request to the backend.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::base_builds::BaseBuilds;
use super::config::{Clock, Config};
use super::error::{Error, Result};
use super::locks::{ReadGuard, SandboxLock, SandboxLocks};
use super::response::SandboxView;
use super::state::{Record, Status, Store};
use crate::base::BaseBuilder;
use crate::lifecycle::{self, User, expiry};
use crate::model::{Backend, Instance, Name, hex};

/// Time limit for a pixel to shut down before it is killed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Service {
    pub(super) backend: Box<dyn Backend>,
    pub(super) base_builder: BaseBuilder,
    pub(super) config: Config,
    /// Owner id that this server stores on the pixels it creates.
    pub(super) owner: String,
    pub(super) store: Store,
    pub(super) locks: SandboxLocks,
    pub(super) base_builds: BaseBuilds,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTracker,
    /// Notified after every change of a record.
    pub(super) changed: watch::Sender<()>,
    pub(super) stop: CancellationToken,
    /// Held to finish an interrupted restore. No other lock is taken with it.
    pub(super) finishing: tokio::sync::Mutex<()>,
}

impl Service {
    pub fn new(
        backend: Box<dyn Backend>,
        base_builder: BaseBuilder,
        config: Config,
        store: Store,
        clock: Clock,
    ) -> Self {
        Self {
            backend,
            base_builder,
            owner: owner_id(&config.state_file),
            config,
            store,
            locks: SandboxLocks::default(),
            base_builds: BaseBuilds::default(),
            clock,
            tasks: TaskTracker::new(),
            changed: watch::Sender::new(()),
            stop: CancellationToken::new(),
            finishing: tokio::sync::Mutex::new(()),
        }
    }

    /// Canceled when the server stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Interrupts background tasks, waits at most `limit` for their cleanup,
    /// and saves the records.
    pub async fn close(&self, limit: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks are unfinished; the next server resumes them");
        }
        self.save_or_log().await;
        self.backend.close(limit).await;
    }

    pub async fn list(&self) -> Result<Vec<SandboxView>> {
        let mut pixels = self.reconcile().await?;
        let now = (self.clock)();
        let records = self.store.all();
        pixels.retain(|pixel| records.iter().any(|it| it.name == pixel.name.as_str()));
        let gateway = &self.base_builder.defaults.gateway;
        let leases = lifecycle::leases(&*self.backend, gateway, &pixels).await;
        let lease = |name: &str| leases.iter().find(|(pixel, _)| pixel.as_str() == name);
        let view = |record: &Record| SandboxView {
            lease_until: lease(&record.name).and_then(|(_, time)| expiry::after(*time)),
            ..SandboxView::new(record, now, &self.config.limits)
        };
        Ok(records.iter().map(view).collect())
    }

    pub async fn start(&self, name: &str) -> Result<SandboxView> {
        let _guard = self.lock_of(name)?.write().await;
        self.created_record(name)?;
        let pixel: Name = name.parse()?;
        self.finish_restore(&pixel).await?;
        let gateway = &self.base_builder.defaults.gateway;
        lifecycle::start(&*self.backend, &self.stop, gateway, &pixel, &|_| {}).await?;
        self.record_instance(&self.backend.get(&pixel).await?);
        let now = (self.clock)();
        self.update(name, |record| {
            record.status = Status::Running;
            record.error = None;
            record.last_activity_at = now;
        });
        self.save().await?;
        self.view(name)
    }

    /// Interrupts work in the sandbox and stops it.
    pub async fn stop(&self, name: &str) -> Result<()> {
        let lock = self.lock_of(name)?;
        self.created_record(name)?;
        lock.interrupt();
        let _guard = lock.write().await;
        self.record(name)?;
        self.stop_pixel(name).await
    }

    /// Stops the pixel. The caller holds the write lock of the sandbox.
    pub(super) async fn stop_pixel(&self, name: &str) -> Result<()> {
        self.backend.stop(&name.parse()?, SHUTDOWN_TIMEOUT).await?;
        self.update(name, |record| {
            record.status = Status::Stopped;
            record.ip = None;
        });
        self.save().await
    }

    /// Interrupts work in the sandbox and destroys the sandbox, even if it has
    /// no pixel. After a crash, the next server finishes the destruction.
    pub async fn destroy(&self, name: &str) -> Result<()> {
        let lock = self.lock_of(name)?;
        self.update(name, |record| record.doomed = true);
        self.save().await?;
        lock.interrupt();
        let _guard = lock.write().await;
        if self.store.get(name).is_none() {
            return Ok(());
        }
        let gateway = &self.base_builder.defaults.gateway;
        match lifecycle::destroy(&*self.backend, gateway, &name.parse()?).await {
            Err(error) if !error.is_not_found() => {
                self.update(name, |record| record.doomed = false);
                return Err(error.into());
            }
            _ => {}
        }
        tracing::info!(sandbox = name, "destroyed");
        self.store.remove(name);
        self.locks.remove(name);
        self.changed.send_replace(());
        self.save().await
    }

    pub(super) fn spawn_destroy(self: &Arc<Self>, name: String) {
        let service = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = service.destroy(&name).await {
                tracing::warn!(sandbox = name, %error, "cannot destroy");
            }
        });
    }

    /// Returns the latest denied connections and DNS queries of the sandbox.
    pub async fn denials(&self, name: &str) -> Result<crate::egress::Denials> {
        self.record(name)?;
        let instance = self.backend.get(&name.parse()?).await?;
        let gateway_spec = &self.base_builder.defaults.gateway;
        Ok(lifecycle::denials(&*self.backend, gateway_spec, &instance).await?)
    }

    /// Takes the read lock of a sandbox that is not being created, and finishes an
    /// interrupted restore.
    pub(super) async fn lock_for_use(&self, name: &str) -> Result<(Record, Name, ReadGuard)> {
        let lock = self.lock_of(name)?;
        // Fail at once: creation may hold the write lock for minutes.
        self.created_record(name)?;
        let guard = lock.read().await;
        let record = self.record(name)?;
        let pixel = record.name.parse()?;
        self.finish_restore(&pixel).await?;
        Ok((record, pixel, guard))
    }

    /// Takes the read lock for work on files, and restarts the idle time. Fails
    /// for a privileged pixel.
    pub(super) async fn lock_for_files(&self, name: &str) -> Result<(Instance, ReadGuard)> {
        let (_, pixel, guard) = self.lock_for_use(name).await?;
        self.touch(name);
        let instance = self.backend.get(&pixel).await?;
        lifecycle::ensure_unprivileged(&instance)?;
        Ok((instance, guard))
    }

    /// Takes the read lock for work on processes, and restarts the idle time.
    /// Fails if the sandbox is not running. Also returns its default user.
    pub(super) async fn lock_running(&self, name: &str) -> Result<(Name, User, ReadGuard)> {
        let (record, pixel, guard) = self.lock_for_use(name).await?;
        if record.status != Status::Running {
            return Err(Error::NotRunning(record.into()));
        }
        self.touch(name);
        let user = self.guest_user(&pixel).await?;
        Ok((pixel, user, guard))
    }

    pub(super) fn lock_of(&self, name: &str) -> Result<Arc<SandboxLock>> {
        self.record(name)?;
        Ok(self.locks.get(name))
    }

    /// Returns a record. Fails with [`Error::Unknown`] if there is none.
    pub(super) fn record(&self, name: &str) -> Result<Record> {
        self.store
            .get(name)
            .ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    /// Returns a record. Fails also for a sandbox that is being created.
    pub(super) fn created_record(&self, name: &str) -> Result<Record> {
        let record = self.record(name)?;
        match record.status {
            Status::Provisioning => Err(Error::NotRunning(record.into())),
            _ => Ok(record),
        }
    }

    pub(super) fn update(&self, name: &str, change: impl FnOnce(&mut Record)) {
        self.store.update(name, change);
        self.changed.send_replace(());
    }

    pub(super) fn view(&self, name: &str) -> Result<SandboxView> {
        let record = self.record(name)?;
        let now = (self.clock)();
        Ok(SandboxView::new(&record, now, &self.config.limits))
    }

    /// Restarts the idle time of the sandbox.
    pub(super) fn touch(&self, name: &str) {
        let now = (self.clock)();
        self.store
            .update(name, |record| record.last_activity_at = now);
    }

    pub(super) async fn save(&self) -> Result<()> {
        self.store.save().await.map_err(Error::State)
    }

    /// Saves the records. Logs errors, for callers that cannot handle them.
    pub(super) async fn save_or_log(&self) {
        if let Err(error) = self.save().await {
            tracing::error!("{error}");
        }
    }
}

/// Returns an id derived from machine, user and path of the state file. The id
/// stays the same if the file is lost.
fn owner_id(state_file: &Path) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    let path = std::path::absolute(state_file).unwrap_or_else(|_| state_file.to_owned());
    let text = format!("{}\n{user}\n{}", machine.trim(), path.display());
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hex(&digest.as_ref()[..12])
}
