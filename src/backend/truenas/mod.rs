//! The TrueNAS backend: JSON-RPC over a WebSocket for the instances, SSH for
//! what is inside them.

mod api_version;
mod auth;
mod bootstrap;
mod bootstrap_files;
mod clone;
mod container_api;
mod convert;
mod endpoint;
mod error;
mod guest;
mod instances;
mod job;
mod nic;
mod power;
mod properties;
mod rpc;
mod snapshots;
mod socket;
mod ssh;
mod wire;

#[cfg(test)]
#[path = "../../../tests/fuzz/truenas.rs"]
mod fuzz;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::task::TaskTracker;

pub use endpoint::Server;
pub use error::Failure;
pub use nic::{NicKind, NicOptions as NicWish};
pub use ssh::{Ask, Settings as SshSettings};

use crate::model::{
    Backend, Capabilities, Checkpoint, CreateSpec, Error, Event, ForkSpec, Guest, InitScript,
    Instance, Label, Name, Properties, Result, Usage,
};
use crate::secret::Secret;
use auth::Login;
use convert::Found;
use endpoint::Endpoint;
use instances::no_segments;
use rpc::Rpc;
use ssh::Ssh;

/// What the backend needs to know of the user's settings.
#[derive(Debug)]
pub struct Options {
    pub server: Server,
    pub user: String,
    pub api_key: Secret,
    /// The pool of new pixels; `None` leaves it to the server.
    pub pool: Option<String>,
    /// The dataset that holds the pixels' disks; `None`, where the server has them.
    pub dataset_prefix: Option<String>,
    pub nic: NicWish,
    /// For a copy whose source does not say what it was made from.
    pub image: String,
    pub ssh: SshSettings,
}

/// What is left of the options when the connections are set up.
#[derive(Debug)]
struct Config {
    pool: Option<String>,
    dataset_prefix: Option<String>,
    nic: NicWish,
    image: String,
}

/// Pixels on one TrueNAS server.
#[derive(Debug)]
pub struct Truenas {
    rpc: Arc<Rpc>,
    ssh: Ssh,
    options: Config,
    /// What goes on when its caller gave up.
    tasks: TaskTracker,
    /// Held over reading and writing back what is noted on an instance.
    changing: tokio::sync::Mutex<()>,
    /// Cron jobs that exchange the disks of these pixels.
    exchanges: Mutex<HashMap<Name, i64>>,
    /// The scripts of first boots that are still to come.
    scripts: Mutex<HashMap<Name, String>>,
}

impl Truenas {
    /// Checks the settings; nothing is sent.
    pub fn new(options: Options) -> Result<Self> {
        let endpoint = Endpoint::new(&options.server).map_err(Failure::into_error)?;
        let login = Login {
            user: options.user,
            key: options.api_key,
        };
        let tasks = TaskTracker::new();
        tasks.close();
        Ok(Self {
            rpc: Arc::new(Rpc::new(endpoint, login)),
            ssh: Ssh::new(options.ssh, tasks.clone()),
            options: Config {
                pool: options.pool,
                dataset_prefix: options.dataset_prefix,
                nic: options.nic,
                image: options.image,
            },
            tasks,
            changing: tokio::sync::Mutex::default(),
            exchanges: Mutex::default(),
            scripts: Mutex::default(),
        })
    }

    /// A question about no particular thing.
    async fn read<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T> {
        self.rpc
            .read(method, params)
            .await
            .map_err(Failure::into_error)
    }

    fn store_script(&self, name: &Name, script: &str) {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        scripts.insert(name.clone(), script.to_owned());
    }

    fn script(&self, name: &Name) -> Option<String> {
        let scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        scripts.get(name).cloned()
    }
}

#[async_trait]
impl Backend for Truenas {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            checkpoints: true,
            fork: true,
            stopped_files: false,
        }
    }

    /// The server tells of no images of its own.
    async fn has_image(&self, _: &str) -> Result<bool> {
        Ok(false)
    }

    async fn image_with_prefix(&self, _: &str) -> Result<Option<String>> {
        Ok(None)
    }

    async fn ensure_isolated_bridge(&self, _: &str) -> Result<()> {
        Err(no_segments())
    }

    async fn host_addresses(&self) -> Result<Vec<Ipv4Addr>> {
        Err(no_segments())
    }

    async fn remove_isolated_bridge(&self, _: &str) -> Result<()> {
        Err(no_segments())
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
            Found::Virt(_) => self.contact(name).await,
            Found::Lxc(_) => Ok(()),
        }
    }

    async fn stop(&self, name: &Name, grace: Duration) -> Result<()> {
        self.stop(name, grace).await
    }

    async fn destroy(&self, name: &Name) -> Result<()> {
        self.destroy(name).await
    }

    async fn get(&self, name: &Name) -> Result<Instance> {
        self.get(name).await
    }

    async fn list(&self) -> Result<Vec<Instance>> {
        self.list().await
    }

    async fn address(&self, name: &Name) -> Result<Option<Ipv4Addr>> {
        Ok(self.get(name).await?.addresses.first().copied())
    }

    async fn usage(&self, name: &Name) -> Result<Usage> {
        Ok(self.find_virt(name).await?.usage())
    }

    async fn watch(&self, _: &mut (dyn FnMut(Event) + Send)) -> Result<()> {
        Err(Error::Unsupported {
            operation: "watching what happens".into(),
            reason: "TrueNAS does not tell who did what to an instance".into(),
        })
    }

    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()> {
        self.change_properties(name, properties).await
    }

    /// No snapshot has a time to live here: one whose command died is found
    /// and removed by `prune`.
    async fn checkpoint(&self, name: &Name, label: &Label, _: Option<Duration>) -> Result<()> {
        self.snapshot(name, label).await?;
        if let Err(error) = self.note_checkpoint(name, label).await {
            // Half a checkpoint is none.
            let _ = self.remove_snapshot(name, label).await;
            return Err(error);
        }
        Ok(())
    }

    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>> {
        self.snapshots_of(name).await
    }

    async fn newer_checkpoints(&self, name: &Name, label: &Label) -> Result<Vec<String>> {
        self.newer_checkpoints(name, label).await
    }

    async fn restore(&self, name: &Name, label: &Label) -> Result<()> {
        self.restore(name, label).await
    }

    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()> {
        self.remove_snapshot(name, label).await
    }

    fn has_sent_writes(&self) -> bool {
        self.rpc.has_changed_anything()
    }

    async fn wait_idle(&self, name: &Name) -> Result<()> {
        self.await_idle(name).await
    }

    async fn close(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("left before everything had ended");
        }
    }

    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a> {
        Box::new(guest::SshGuest::new(self, name))
    }
}
