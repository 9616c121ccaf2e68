//! The TrueNAS backend: manages instances with JSON-RPC over a WebSocket, and
//! accesses guests over SSH.

mod api_version;
mod auth;
mod bootstrap;
mod bootstrap_files;
mod clone;
mod connect;
mod convert;
mod endpoint;
mod error;
mod fault;
mod guest;
mod instances;
mod job;
mod job_events;
mod messages;
mod nic;
mod power;
mod properties;
mod rpc;
mod snapshots;
mod socket;
mod ssh;
mod wire;

#[cfg(test)]
mod fuzz;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::task::TaskTracker;

pub use auth::Login;
pub use endpoint::Server;
pub use nic::NicOptions;
pub use ssh::{AskPassphrase, Settings as SshSettings};

use crate::model::{
    Backend, Checkpoint, CreateSpec, Error, Event, ForkSpec, Guest, InitScript, Instance,
    IsolatedNetwork, Label, Name, Properties, Result, Usage,
};
use convert::Container;
use endpoint::Endpoint;
use instances::no_isolated_bridges;
use rpc::Rpc;
use ssh::Ssh;

/// The settings of the backend.
pub struct Options {
    pub server: Server,
    pub login: Login,
    pub placement: Placement,
    pub ssh: SshSettings,
}

/// The settings of new pixels.
#[derive(Debug)]
pub struct Placement {
    /// The storage pool. `None` selects the server's default pool.
    pub pool: Option<String>,
    /// The dataset that contains the pixels' disks. `None` selects the server's
    /// location.
    pub dataset_prefix: Option<String>,
    pub nic: NicOptions,
    /// The image for a clone whose source has no recorded image.
    pub image: String,
}

/// The backend for all pixels on one TrueNAS server.
#[derive(Debug)]
pub struct Truenas {
    rpc: Arc<Rpc>,
    ssh: Ssh,
    placement: Placement,
    /// Tasks that continue after their callers have stopped waiting.
    tasks: TaskTracker,
    /// Locked while pixels reads, changes and writes an instance's environment.
    environment_lock: tokio::sync::Mutex<()>,
    /// The cron jobs that replace the disks of these pixels.
    clone_jobs: Mutex<HashMap<Name, i64>>,
    /// The first-boot scripts of pixels that have not booted yet.
    first_boot_scripts: Mutex<HashMap<Name, String>>,
}

impl Truenas {
    /// Checks the settings without opening a connection.
    pub fn new(options: Options) -> Result<Self> {
        let tasks = TaskTracker::new();
        tasks.close();
        Ok(Self {
            rpc: Arc::new(Rpc::new(Endpoint::new(&options.server)?, options.login)),
            ssh: Ssh::new(options.ssh, tasks.clone()),
            placement: options.placement,
            tasks,
            environment_lock: tokio::sync::Mutex::default(),
            clone_jobs: Mutex::default(),
            first_boot_scripts: Mutex::default(),
        })
    }

    fn first_boot_scripts(&self) -> MutexGuard<'_, HashMap<Name, String>> {
        self.first_boot_scripts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for Truenas {
    fn can_access_stopped_files(&self) -> bool {
        false
    }

    /// Always returns an empty list, because the API does not list images.
    async fn image_aliases(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn isolated_network(&self) -> Result<&dyn IsolatedNetwork> {
        Err(no_isolated_bridges())
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InitScript> {
        self.create(spec).await
    }

    async fn fork(&self, spec: &ForkSpec) -> Result<InitScript> {
        self.fork(spec).await
    }

    async fn start(&self, name: &Name) -> Result<()> {
        self.start(name).await?;
        match self.find(name).await? {
            Container::Virt(_) => self.bootstrap(name).await,
            Container::Lxc(_) => Ok(()),
        }
    }

    async fn stop(&self, name: &Name, grace: Duration) -> Result<()> {
        self.stop(name, grace).await
    }

    async fn destroy(&self, name: &Name) -> Result<()> {
        self.destroy(name).await
    }

    async fn get(&self, name: &Name) -> Result<Instance> {
        Ok(self.find(name).await?.into_instance(name.clone()))
    }

    async fn list(&self) -> Result<Vec<Instance>> {
        self.list().await
    }

    async fn address(&self, name: &Name) -> Result<Option<Ipv4Addr>> {
        Ok(self.get(name).await?.addresses.first().copied())
    }

    async fn usage(&self, name: &Name) -> Result<Usage> {
        Ok(self.find_virt(name, "usage of a pixel").await?.usage())
    }

    async fn watch(&self, _: &mut (dyn FnMut(Event) + Send)) -> Result<()> {
        Err(Error::Unsupported {
            operation: "streaming events".into(),
            reason: "TrueNAS does not report lifecycle events of instances".into(),
        })
    }

    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()> {
        self.change_properties(name, properties).await
    }

    /// Ignores the expiry, which TrueNAS does not support. `prune` deletes
    /// checkpoints of interrupted commands.
    async fn checkpoint(&self, name: &Name, label: &Label, _: Option<Duration>) -> Result<()> {
        self.create_snapshot(name, label).await?;
        if let Err(error) = self.record_checkpoint(name, label).await {
            // A checkpoint without properties would be incomplete.
            let _ = self.delete_snapshot(name, label).await;
            return Err(error);
        }
        Ok(())
    }

    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>> {
        self.list_checkpoints(name).await
    }

    async fn newer_checkpoints(&self, name: &Name, label: &Label) -> Result<Vec<String>> {
        self.newer_checkpoints(name, label).await
    }

    async fn restore(&self, name: &Name, label: &Label) -> Result<()> {
        self.restore(name, label).await
    }

    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()> {
        self.delete_snapshot(name, label).await
    }

    fn has_sent_writes(&self) -> bool {
        self.rpc.has_sent_writes()
    }

    async fn wait_idle(&self, name: &Name) -> Result<()> {
        self.await_idle(name).await
    }

    async fn wait_until_unchanged(&self, name: &Name) -> Result<()> {
        self.await_jobs(name, false).await
    }

    async fn close(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("exiting before all background work has ended");
        }
    }

    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a> {
        Box::new(guest::SshGuest::new(self, name))
    }
}
