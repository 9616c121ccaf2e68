//! The vocabulary every other part speaks: names, types, errors, and the two
//! traits a backend implements. No sockets, processes or printing in here.

mod cancel;
mod capture;
mod cpus;
mod duration;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod guest;
mod memory;
mod name;
mod shell;
mod types;
mod util;

use std::fmt::Debug;
use std::net::Ipv4Addr;

use async_trait::async_trait;

pub use cancel::unless_cancelled;
pub use capture::{Capture, Captured, Record, Writer, collect, collect_up_to};
pub use cpus::parse_cpus;
pub use duration::parse_duration;
pub use error::{Error, Reason, Result, STOPPED, Subject};
pub use guest::{
    Control, ExecIo, ExecRequest, ExitStatus, FileKind, FileStat, Guest, GuestFile, Ids, MAX_CHUNK,
    Output, Precondition, TtySize,
};
pub use memory::{LEAST_MEMORY, Size, parse_memory};
pub use name::{CloneSource, InvalidName, Label, Name};
pub use shell::shell_quote;
pub use types::{
    Attachment, Checkpoint, CreateSpec, Event, FirstBoot, ForkSpec, InitScript, Instance, Limits,
    Properties, Requestor, Status, Usage,
};
pub use util::{fnv1a, hex, lock, random_hex};

/// All pixels of one backend.
///
/// Every call is one request of the user's and may be dropped at any await:
/// what the server has begun by then it may still finish, so a caller that
/// gives up asks [`Backend::settle`] before it undoes anything.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// Whether [`Guest`] reads and writes files of a stopped pixel.
    fn can_access_stopped_files(&self) -> bool;

    /// The aliases of the images that the server itself holds.
    async fn image_aliases(&self) -> Result<Vec<String>>;

    /// Access to isolated bridges. A server without them is
    /// `Error::Unsupported`.
    fn isolated_network(&self) -> Result<&dyn IsolatedNetwork>;

    /// Makes a pixel from an image, with its limits, disk, network and
    /// properties in place, and does **not** start it.
    /// A taken name is `Error::AlreadyExists`.
    async fn create(&self, spec: &CreateSpec) -> Result<InitScript>;

    /// Copies a pixel's present state or one of its checkpoints and does
    /// **not** start the copy. The source may run and is left as it is; no
    /// snapshot stays behind. Hardware identity (MAC) is new; identity inside
    /// (machine-id, host keys) is the business of the first boot.
    async fn fork(&self, spec: &ForkSpec) -> Result<InitScript>;

    /// Starts a pixel. Already running counts as done.
    async fn start(&self, name: &Name) -> Result<()>;

    /// Stops a pixel: asks it to shut down, and kills it after `grace`.
    /// Already stopped counts as done.
    async fn stop(&self, name: &Name, grace: std::time::Duration) -> Result<()>;

    /// Stops and deletes a pixel with all its checkpoints.
    /// Missing is `Error::NotFound`.
    async fn destroy(&self, name: &Name) -> Result<()>;

    /// One pixel. Missing is `Error::NotFound`. Addresses are not filled in.
    async fn get(&self, name: &Name) -> Result<Instance>;

    /// All pixels, sorted by name, in a number of requests that does not
    /// depend on how many there are.
    async fn list(&self) -> Result<Vec<Instance>>;

    /// The pixel's primary IPv4 address, as the pixel itself has it now.
    async fn address(&self, name: &Name) -> Result<Option<Ipv4Addr>>;

    /// What a running pixel uses at this moment.
    async fn usage(&self, name: &Name) -> Result<Usage>;

    /// Tells what happens to pixels from now on, until dropped; returns only
    /// when the connection is lost.
    async fn watch(&self, on_event: &mut (dyn FnMut(Event) + Send)) -> Result<()>;

    /// Merges server-side properties; an empty value removes a key.
    async fn set_properties(&self, name: &Name, properties: &Properties) -> Result<()>;

    /// Takes a checkpoint of the disk. A taken label is `Error::AlreadyExists`.
    /// With `expires_in`, the server removes it by itself after that time.
    async fn checkpoint(
        &self,
        name: &Name,
        label: &Label,
        expires_in: Option<std::time::Duration>,
    ) -> Result<()>;

    /// The checkpoints of a pixel, oldest first.
    async fn checkpoints(&self, name: &Name) -> Result<Vec<Checkpoint>>;

    /// The checkpoints, by whomever, that [`Backend::restore`] would destroy
    /// because they are newer; whoever restores asks first.
    async fn newer_checkpoints(&self, _: &Name, _: &Label) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Puts the disk back to a checkpoint. A running pixel is restarted, a
    /// stopped one stays stopped.
    async fn restore(&self, name: &Name, label: &Label) -> Result<()>;

    /// Missing is `Error::NotFound`.
    async fn delete_checkpoint(&self, name: &Name, label: &Label) -> Result<()>;

    /// False as long as the server was only asked and never told: then there
    /// is nothing to undo.
    fn has_sent_writes(&self) -> bool {
        true
    }

    /// Waits until no operation on this pixel is under way on the server.
    async fn wait_idle(&self, name: &Name) -> Result<()>;

    /// Waits, at most for `limit`, for requests whose callers gave up.
    async fn close(&self, limit: std::time::Duration);

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
