//! Types that all other parts share: names, errors, and the traits of a
//! backend. This module opens no sockets, runs no processes and prints nothing.

mod cancel;
mod capture;
mod cpus;
mod duration;
mod env_name;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod guest;
mod memory;
mod name;
mod shell;
mod timestamp;
mod types;
mod user_guest;
mod util;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use async_trait::async_trait;

pub use cancel::unless_cancelled;
pub use capture::{Capture, Captured, Record, Writer, collect_up_to, run_with_streams};
pub use cpus::{count_cpus, parse_cpus};
pub use duration::parse_duration;
pub use env_name::is_env_name;
pub use error::{Error, Reason, Result, STOPPED, Subject};
pub use guest::{
    Control, ExecIo, ExecRequest, ExitStatus, FileKind, FileStat, Guest, GuestFile, Ids, MAX_CHUNK,
    Output, Precondition, TtySize,
};
pub use memory::{LEAST_DISK, LEAST_MEMORY, Size, parse_disk, parse_memory};
pub use name::{CloneSource, InvalidName, Label, Name};
pub use shell::shell_quote;
pub use timestamp::{parse_rfc3339, rfc3339};
pub use types::{
    Attachment, Checkpoint, CreateSpec, Event, FirstBoot, ForkSpec, HOST_ACCESS_DSCP, HostFilter,
    InitScript, Instance, Limits, NicKind, Properties, Requestor, Status, Usage,
};
pub use user_guest::UserGuest;
pub use util::{fnv1a, hex, incomplete_end, lock, random_hex, sha256};

/// Access to all pixels of a server.
///
/// Every call may be dropped at any await. The server may still finish an
/// operation that the call has started. A caller that reverts changes after a
/// dropped call must first call [`Backend::wait_idle`].
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// Whether [`Guest`] can read and write files of a stopped pixel.
    fn can_access_stopped_files(&self) -> bool;

    /// Returns the aliases of the server's local images.
    async fn image_aliases(&self) -> Result<Vec<String>>;

    /// Returns access to isolated bridges. Fails with `Error::Unsupported` if the
    /// server does not support isolated bridges.
    fn isolated_network(&self) -> Result<&dyn IsolatedNetwork>;

    /// Creates a pixel from an image, with limits, disk, network and properties,
    /// but does **not** start the pixel. Fails with `Error::AlreadyExists` if the
    /// name is in use.
    async fn create(&self, spec: &CreateSpec) -> Result<InitScript>;

    /// Clones the current state of a pixel or a checkpoint, but does **not** start
    /// the clone. The source may be running and is not changed; no snapshot
    /// remains. The server generates a new MAC for the clone. The clone's first
    /// boot generates a new machine-id and new host keys.
    async fn fork(&self, spec: &ForkSpec) -> Result<InitScript>;

    /// Starts a pixel. Succeeds if the pixel is running already.
    async fn start(&self, name: &Name) -> Result<()>;

    /// Stops a pixel: requests a shutdown, and kills the pixel after `grace`.
    /// Succeeds if the pixel is stopped already.
    async fn stop(&self, name: &Name, grace: std::time::Duration) -> Result<()>;

    /// Stops and deletes a pixel and the pixel's checkpoints. Fails with
    /// `Error::NotFound` if the pixel does not exist.
    async fn destroy(&self, name: &Name) -> Result<()>;

    /// Returns a pixel without its addresses. Fails with `Error::NotFound` if the
    /// pixel does not exist.
    async fn get(&self, name: &Name) -> Result<Instance>;

    /// Returns all pixels, sorted by name. The number of requests does not depend
    /// on the number of pixels.
    async fn list(&self) -> Result<Vec<Instance>>;

    /// Returns the names of all pixels. Cheaper than [`Backend::list`] if there are
    /// many.
    async fn names(&self) -> Result<BTreeSet<Name>> {
        let all = self.list().await?;
        Ok(all.into_iter().map(|instance| instance.name).collect())
    }

    /// Returns the pixel's primary IPv4 address, as configured in the pixel.
    async fn address(&self, name: &Name) -> Result<Option<Ipv4Addr>>;

    /// Returns the current resource usage of a running pixel.
    async fn usage(&self, name: &Name) -> Result<Usage>;

    /// Streams lifecycle events until dropped. Returns only if the connection is
    /// lost.
    async fn watch(&self, on_event: &mut (dyn FnMut(Event) + Send)) -> Result<()>;

    /// Merges new properties into a pixel's properties. An empty value deletes the key.
    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()>;

    /// Creates a checkpoint of the disk. Fails with `Error::AlreadyExists` if the
    /// label is in use. The server deletes the checkpoint after `expires_in`.
    async fn checkpoint(
        &self,
        name: &Name,
        label: &Label,
        expires_in: Option<std::time::Duration>,
    ) -> Result<()>;

    /// Returns the checkpoints of a pixel, oldest first.
    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>>;

    /// Returns the labels of newer checkpoints that [`Backend::restore`] would delete,
    /// including checkpoints of other tools. Callers must confirm the loss first.
    async fn newer_checkpoints(&self, _: &Name, _: &Label) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Restores the disk and the properties from a checkpoint. A running pixel is
    /// restarted; a stopped pixel stays stopped.
    async fn restore(&self, name: &Name, label: &Label) -> Result<()>;

    /// Deletes a checkpoint. Fails with `Error::NotFound` if it does not exist.
    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()>;

    /// Whether this backend may have sent a request that changes the server.
    /// Without such a request there is nothing to revert.
    fn has_sent_writes(&self) -> bool {
        true
    }

    /// Waits until no operation on this pixel runs on the server, including
    /// operations from dropped calls.
    async fn wait_idle(&self, name: &Name) -> Result<()>;

    /// Like [`Self::wait_idle`], but ignores commands that run in the pixel, and
    /// requests of this process.
    async fn wait_until_unchanged(&self, name: &Name) -> Result<()>;

    /// Waits until requests of dropped callers end, but at most for `limit`.
    async fn close(&self, limit: std::time::Duration);

    /// Returns access to the inside of a pixel. Sends no request.
    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a>;
}

/// Access to networks that connect pixels only to their gateway.
#[async_trait]
pub trait IsolatedNetwork: Send + Sync {
    /// Creates an isolated bridge: a network without an uplink, on which the host
    /// has no address. Succeeds if the bridge exists. Fails with `Error::Invalid`
    /// if another network has that name. Safe to call concurrently.
    async fn ensure_bridge(&self, bridge: &str) -> Result<()>;

    /// Returns the MAC address of a bridge on the server's host.
    async fn bridge_mac(&self, bridge: &str) -> Result<String>;

    /// Deletes an isolated bridge. Succeeds if the bridge is missing. Fails if the
    /// bridge is in use.
    async fn remove_bridge(&self, bridge: &str) -> Result<()>;

    /// Configures all instances on an isolated bridge to secure their ports and deny
    /// the system calls of this version at their next start, as [`Backend::start`]
    /// does for each instance. Returns the names of the instances whose configuration
    /// has changed.
    async fn secure_ports(&self, bridge: &str) -> Result<Vec<String>>;

    /// Identifies what [`IsolatedNetwork::secure_ports`] and
    /// [`IsolatedNetwork::add_host_filter`] configure in this version.
    fn hooks_version(&self) -> u32;

    /// Returns the IPv4 addresses of the server's host that the server reports.
    async fn host_addresses(&self) -> Result<Vec<Ipv4Addr>>;

    /// Returns the IPv4 addresses of this machine if the server runs here.
    /// Sends no request.
    fn local_addresses(&self) -> Vec<Ipv4Addr>;

    /// Configures the gateway of `subnet`, which an earlier version may have created,
    /// so that the host filters its port from its next start (see
    /// [`Attachment::Gateway`]). Returns whether the configuration has changed.
    async fn add_host_filter(&self, gateway: &Name, subnet: &str) -> Result<bool>;

    /// Returns the host's filter for the running gateway of `subnet`, or `None` if
    /// none is configured.
    async fn host_filter(&self, gateway: &Name, subnet: &str) -> Result<Option<HostFilter>>;
}
