//! Preparing a host: what `pixels setup` does and `pixels doctor` checks.
//!
//! [`inspect`] gathers facts, [`plan`] decides from them alone, [`setup`]
//! carries the plan out one step at a time and looks again after each. It
//! knows the Incus API and the machine it runs on, and nothing of pixels
//! (instances), egress or the command line. What exists is left as it is.

mod apt_sources;
mod command;
mod daemon;
pub mod doctor;
mod error;
pub mod facts;
mod image;
mod image_server;
mod incus_facts;
mod multipart;
mod packages;
pub mod plan;
mod probe;
mod read_file;
mod setup;
mod subid;
mod subnet;

#[cfg(test)]
#[path = "../../tests/fuzz/host.rs"]
mod fuzz;

use std::path::{Path, PathBuf};

use crate::backend::incus::{Client, Endpoint};

pub use command::CommandLine;
pub use doctor::{Check, Status, doctor, exit_code};
pub use error::Error;
pub use facts::HostFacts;
pub use image::{FALLBACK_IMAGE_PREFIX, fallback_among, fallback_image, import};
pub use plan::{Action, Plan, Step, StepId, plan};
pub use setup::{Event, Report, inspect, setup};
pub use subnet::Subnet;

/// Where Incus keeps its state and its socket unless told otherwise.
pub const INCUS_DIR: &str = "/var/lib/incus";

/// What is to be prepared or checked, and what the user's settings ask for.
#[derive(Debug, Clone)]
pub struct Options {
    pub endpoint: Endpoint,
    /// The Incus project; `None` is the server's default one.
    pub project: Option<String>,
    /// The pool the settings name. `None`: any will do.
    pub pool: Option<String>,
    /// The network the settings name. `None`: any managed bridge will do.
    pub network: Option<String>,
    /// `defaults.image`, an alias.
    pub image: String,
    /// Nobody has set `defaults.image`, so another image may stand in for it.
    pub image_is_default: bool,
    /// The simplestreams server images are downloaded from.
    pub image_server: String,
    /// Install the `incus` command too; pixels itself does not use it.
    pub with_client: bool,
    /// Where an image is built; needs about 1 GiB for a minute.
    pub work_dir: PathBuf,
}

impl Options {
    /// For the daemon at `endpoint`, with `image` as left at its default.
    pub fn new(
        endpoint: Endpoint,
        image: impl Into<String>,
        image_server: impl Into<String>,
    ) -> Self {
        Self {
            endpoint,
            project: None,
            pool: None,
            network: None,
            image: image.into(),
            image_is_default: true,
            image_server: image_server.into(),
            with_client: false,
            work_dir: PathBuf::from("/var/tmp"),
        }
    }

    /// The state directory of the local daemon; `None` for a remote one.
    pub fn incus_dir(&self) -> Option<&Path> {
        match &self.endpoint {
            Endpoint::Unix(socket) => Some(socket.parent().unwrap_or(Path::new(INCUS_DIR))),
            Endpoint::Https(_) => None,
        }
    }

    fn client(&self) -> Result<Client, Error> {
        Client::new(&self.endpoint, self.project.clone()).map_err(|source| Error::Server {
            doing: "reading the connection's settings".into(),
            source,
        })
    }
}
