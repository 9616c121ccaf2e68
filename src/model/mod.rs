//! The types that all other parts share: names, errors, and the traits of a
//! backend. Nothing here opens sockets, runs processes or prints.

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
mod util;

use std::fmt::Debug;
use std::net::Ipv4Addr;

use async_trait::async_trait;

pub use cancel::unless_cancelled;
pub use capture::{Capture, Captured, Record, Writer, collect_up_to};
pub use cpus::parse_cpus;
pub use duration::parse_duration;
pub use env_name::is_env_name;
pub use error::{Error, Reason, Result, STOPPED, Subject};
pub use guest::{
    Control, ExecIo, ExecRequest, ExitStatus, FileKind, FileStat, Guest, GuestFile, Ids, MAX_CHUNK,
    Output, Precondition, TtySize,
};
pub use memory::{LEAST_MEMORY, Size, parse_memory};
pub use name::{CloneSource, InvalidName, Label, Name};
pub use shell::shell_quote;
pub use timestamp::{parse_rfc3339, rfc3339};
pub use types::{
    Attachment, Checkpoint, CreateSpec, Event, FirstBoot, ForkSpec, InitScript, Instance, Limits,
    NicKind, Properties, Requestor, Status, Usage,
};
pub use util::{fnv1a, hex, lock, random_hex, sha256};

/// All pixels of a server.
///
/// Every call may be dropped at any await. The server may still finish an
/// operation that it has started by then, so a caller that gives up calls
/// [`Backend::wait_idle`] before it reverts anything.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// Whether [`Guest`] reads and writes files of a stopped pixel.
    fn can_access_stopped_files(&self) -> bool;

    /// The aliases of the images that the server itself holds.
    async fn image_aliases(&self) -> Result<Vec<String>>;

    /// Access to isolated bridges. A server without them is
    /// `Error::Unsupported`.
    fn isolated_network(&self) -> Result<&dyn IsolatedNetwork>;

    /// Creates a pixel from an image, with its limits, disk, network and
    /// properties, and does **not** start it. Fails with `Error::AlreadyExists`
    /// if the name is in use.
    async fn create(&self, spec: &CreateSpec) -> Result<InitScript>;

    /// Clones the current state of a pixel or one of its checkpoints, and does
    /// **not** start the clone. The source may run and is not changed; no
    /// snapshot remains. The clone gets a new MAC from the server; its first boot
    /// generates a new machine-id and new host keys.
    async fn fork(&self, spec: &ForkSpec) -> Result<InitScript>;

    /// Starts a pixel. Already running counts as done.
    async fn start(&self, name: &Name) -> Result<()>;

    /// Stops a pixel: requests a shutdown, and kills it after `grace`.
    /// Already stopped counts as done.
    async fn stop(&self, name: &Name, grace: std::time::Duration) -> Result<()>;

    /// Stops and deletes a pixel and its checkpoints. Fails with
    /// `Error::NotFound` if the pixel is missing.
    async fn destroy(&self, name: &Name) -> Result<()>;

    /// A pixel, without its addresses. Fails with `Error::NotFound` if it is
    /// missing.
    async fn get(&self, name: &Name) -> Result<Instance>;

    /// All pixels, sorted by name. The number of requests does not depend on the
    /// number of pixels.
    async fn list(&self) -> Result<Vec<Instance>>;

    /// The pixel's primary IPv4 address, as configured in the pixel.
    async fn address(&self, name: &Name) -> Result<Option<Ipv4Addr>>;

    /// The current resource usage of a running pixel.
    async fn usage(&self, name: &Name) -> Result<Usage>;

    /// Streams lifecycle events until dropped. Returns only if the connection is
    /// lost.
    async fn watch(&self, on_event: &mut (dyn FnMut(Event) + Send)) -> Result<()>;

    /// Merges properties into those of a pixel. An empty value deletes the key.
    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()>;

    /// Takes a checkpoint of the disk. Fails with `Error::AlreadyExists` if the
    /// label is in use. The server deletes the checkpoint after `expires_in`.
    async fn checkpoint(
        &self,
        name: &Name,
        label: &Label,
        expires_in: Option<std::time::Duration>,
    ) -> Result<()>;

    /// The checkpoints of a pixel, oldest first.
    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>>;

    /// The labels of newer checkpoints that [`Backend::restore`] would delete,
    /// those of other tools included. Callers confirm the loss first.
    async fn newer_checkpoints(&self, _: &Name, _: &Label) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Restores the disk and the properties of a checkpoint. A running pixel is
    /// restarted, a stopped pixel stays stopped.
    async fn restore(&self, name: &Name, label: &Label) -> Result<()>;

    /// Deletes a checkpoint. Fails with `Error::NotFound` if it is missing.
    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()>;

    /// False if this backend has sent only requests that read, so that there is
    /// nothing to revert.
    fn has_sent_writes(&self) -> bool {
        true
    }

    /// Waits until no operation on this pixel runs on the server, including
    /// operations started by dropped calls.
    async fn wait_idle(&self, name: &Name) -> Result<()>;

    /// Waits, at most for `limit`, for requests whose callers were dropped.
    async fn close(&self, limit: std::time::Duration);

    /// Access to the inside of a pixel. Sends nothing.
    fn guest<'a>(&'a self, name: &'a Name) -> Box<dyn Guest + 'a>;
}

/// Networks that connect pixels to their gateway and to nothing else.
#[async_trait]
pub trait IsolatedNetwork: Send + Sync {
    /// Creates an isolated bridge: a network without an uplink, on which the
    /// server's host has no address. An existing one counts as done; any other
    /// network of that name is `Error::Invalid`. Safe to call concurrently.
    async fn ensure_bridge(&self, bridge: &str) -> Result<()>;

    /// Deletes an isolated bridge. Missing counts as done; a bridge in use is
    /// an error.
    async fn remove_bridge(&self, bridge: &str) -> Result<()>;

    /// The IPv4 addresses of the server's host, as far as the server reports
    /// them.
    async fn host_addresses(&self) -> Result<Vec<Ipv4Addr>>;
}
