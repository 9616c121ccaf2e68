//! The Incus backend: REST, WebSocket and SFTP over the daemon's socket or TLS.

mod client;
mod cpu_files;
mod create;
mod devices;
mod error;
mod exec;
mod exec_streams;
mod full_disk;
mod guest;
mod host_addresses;
mod host_filter;
mod http;
mod images;
mod init_script;
mod instance_lock;
mod instances;
mod isolated_bridge;
mod messages;
mod operation;
mod port_security;
mod power;
mod running_ports;
mod sftp_channel;
mod snapshots;
mod templates;
mod transport;
mod watch;
mod websocket;
pub mod wire;

#[cfg(test)]
mod fuzz;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;

pub use client::Client;
pub use devices::{Placement, SIMPLE_QUOTAS, has_cheap_limits};
pub use error::Failure;
pub use http::read_body;
pub use operation::Running;
pub use port_security::Port;
pub use running_ports::{RunningPort, running_ports};
pub use transport::{Endpoint, Remote};

use crate::model::{
    self, Backend, Checkpoint, CreateSpec, ForkSpec, Guest, HostFilter, InitScript, Instance,
    IsolatedNetwork, Label, Name, Properties, Result, Usage, fnv1a,
};

/// The settings of the backend.
#[derive(Debug, Clone)]
pub struct Options {
    pub endpoint: Endpoint,
    pub project: Option<String>,
    /// The simplestreams server for images without a local alias.
    pub image_server: String,
    pub placement: Placement,
}

/// The backend for all pixels in one project of an Incus daemon.
#[derive(Debug)]
pub struct Incus {
    client: Client,
    image_server: String,
    placement: Placement,
    /// Whether the daemon runs on this machine.
    is_local: bool,
}

impl Incus {
    /// Checks the settings without sending a request.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self {
            client: Client::new(&options.endpoint, options.project)?,
            image_server: options.image_server,
            placement: options.placement,
            is_local: matches!(options.endpoint, Endpoint::Unix(_)),
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }
}

#[async_trait]
impl Backend for Incus {
    fn can_access_stopped_files(&self) -> bool {
        true
    }

    async fn image_aliases(&self) -> Result<Vec<String>> {
        images::aliases(&self.client).await
    }

    fn isolated_network(&self) -> Result<&dyn IsolatedNetwork> {
        Ok(self)
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InitScript> {
        create::create(&self.client, &self.image_server, &self.placement, spec).await
    }

    async fn fork(&self, spec: &ForkSpec) -> Result<InitScript> {
        create::fork(&self.client, &self.placement, spec).await
    }

    async fn start(&self, name: &Name) -> Result<()> {
        power::start(&self.client, name).await
    }

    async fn stop(&self, name: &Name, grace: Duration) -> Result<()> {
        power::stop(&self.client, name, grace).await
    }

    async fn destroy(&self, name: &Name) -> Result<()> {
        power::destroy(&self.client, name).await
    }

    async fn get(&self, name: &Name) -> Result<Instance> {
        instances::get(&self.client, name).await
    }

    async fn list(&self) -> Result<Vec<Instance>> {
        instances::list(&self.client).await
    }

    async fn names(&self) -> Result<BTreeSet<Name>> {
        instances::names(&self.client).await
    }

    async fn address(&self, name: &Name) -> Result<Option<Ipv4Addr>> {
        Ok(instances::address(
            instances::state(&self.client, name).await?,
        ))
    }

    async fn usage(&self, name: &Name) -> Result<Usage> {
        Ok(instances::usage(
            instances::state(&self.client, name).await?,
        ))
    }

    async fn watch(&self, on_event: &mut (dyn FnMut(model::Event) + Send)) -> Result<()> {
        watch::watch(&self.client, on_event).await
    }

    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()> {
        instances::set_properties(&self.client, name, properties).await
    }

    async fn checkpoint(
        &self,
        name: &Name,
        label: &Label,
        expires_in: Option<Duration>,
    ) -> Result<()> {
        snapshots::create(&self.client, name, label, expires_in).await
    }

    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>> {
        snapshots::list(&self.client, name).await
    }

    async fn restore(&self, name: &Name, label: &Label) -> Result<()> {
        snapshots::restore(&self.client, name, label).await
    }

    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()> {
        snapshots::delete(&self.client, name, label).await
    }

    fn has_sent_writes(&self) -> bool {
        self.client.has_sent_writes()
    }

    async fn wait_idle(&self, name: &Name) -> Result<()> {
        power::wait_idle(&self.client, name).await
    }

    async fn wait_until_unchanged(&self, name: &Name) -> Result<()> {
        power::wait_until_unchanged(&self.client, name).await
    }

    async fn close(&self, limit: Duration) {
        self.client.drain(limit).await;
    }

    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a> {
        Box::new(guest::IncusGuest::new(&self.client, name))
    }
}

#[async_trait]
impl IsolatedNetwork for Incus {
    async fn ensure_bridge(&self, bridge: &str) -> Result<()> {
        isolated_bridge::ensure(&self.client, bridge).await
    }

    async fn remove_bridge(&self, bridge: &str) -> Result<()> {
        isolated_bridge::remove(&self.client, bridge).await
    }

    async fn secure_ports(&self, bridge: &str) -> Result<Vec<String>> {
        port_security::ensure_all(&self.client, bridge).await
    }

    fn hooks_version(&self) -> u32 {
        let scripts = [
            cpu_files::SCRIPT,
            port_security::SCRIPT,
            host_filter::SCRIPT,
            create::DENIED_SYSCALLS,
        ];
        fnv1a(scripts.concat().into_bytes())
    }

    async fn host_addresses(&self) -> Result<Vec<Ipv4Addr>> {
        host_addresses::reported(&self.client).await
    }

    fn local_addresses(&self) -> Vec<Ipv4Addr> {
        match self.is_local {
            true => host_addresses::local(),
            false => Vec::new(),
        }
    }

    async fn add_host_filter(&self, gateway: &Name, subnet: &str) -> Result<bool> {
        host_filter::add(&self.client, gateway, subnet).await
    }

    async fn host_filter(&self, gateway: &Name, subnet: &str) -> Result<Option<HostFilter>> {
        host_filter::find(&self.client, gateway, subnet).await
    }

    async fn bridge_mac(&self, bridge: &str) -> Result<String> {
        isolated_bridge::mac(&self.client, bridge).await
    }
}
