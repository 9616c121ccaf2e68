//! Prepares a host (`pixels setup`) and checks it (`pixels doctor`).
//!
//! [`inspect`] collects facts, [`plan()`] derives the missing steps from the
//! facts, and [`setup()`] runs one step at a time and inspects the host after
//! each step. Setup changes no existing object. This module uses the Incus API
//! and the local machine, but not instances, egress or the command line.

mod apt_sources;
mod command;
mod daemon;
pub mod doctor;
mod error;
pub mod facts;
mod image;
mod image_server;
mod incus_facts;
mod kernel_limits;
mod packages;
pub mod plan;
mod probe;
mod read_file;
mod setup;
mod simple_quotas;
mod subid;
mod subnet;

#[cfg(test)]
mod fuzz;

use std::path::{Path, PathBuf};

use crate::backend::incus::{Client, Endpoint};

pub use command::CommandLine;
pub use doctor::{Check, Status, check_host_filter, doctor, exit_code};
pub use error::Error;
pub use facts::HostFacts;
pub use image::{FALLBACK_IMAGE_PREFIX, fallback_among, fallback_image, import};
pub use plan::{Action, Plan, Step, StepId, plan};
pub use setup::{Event, Report, inspect, setup};

/// The default directory of Incus for its state and its socket.
pub const INCUS_DIR: &str = "/var/lib/incus";

/// The server to set up or check, and related settings.
#[derive(Debug, Clone)]
pub struct Options {
    pub endpoint: Endpoint,
    /// The Incus project. `None`: the server's default project.
    pub project: Option<String>,
    /// The storage pool of the settings. `None`: any pool.
    pub pool: Option<String>,
    /// The network of the settings. `None`: any managed bridge.
    pub network: Option<String>,
    /// The image alias in `defaults.image`.
    pub image: String,
    /// Whether `defaults.image` is unset, so that a fallback image may be used.
    pub image_is_default: bool,
    /// URL of the simplestreams server for image downloads.
    pub image_server: String,
    /// Whether to install the `incus` command, which pixels does not need.
    pub with_client: bool,
    /// Directory for image builds. A build temporarily needs about 1 GiB.
    pub work_dir: PathBuf,
}

impl Options {
    /// Returns options for the daemon at `endpoint`, with the default image
    /// `image` and no other settings.
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

    /// The state directory of a local daemon. `None` for a remote daemon.
    pub fn incus_dir(&self) -> Option<&Path> {
        match &self.endpoint {
            Endpoint::Unix(socket) => Some(socket.parent().unwrap_or(Path::new(INCUS_DIR))),
            Endpoint::Https(_) => None,
        }
    }

    fn client(&self) -> Result<Client, Error> {
        Client::new(&self.endpoint, self.project.clone())
            .map_err(|error| Error::server("cannot use the connection settings", error))
    }
}
