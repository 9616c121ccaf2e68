//! Bases: template pixels to clone. The settings describe how each is built; the
//! server knows which exist. Clones are made from the newest checkpoint of a
//! base's pixel, taken by a build or by a user.
//!
//! A base is built in a pixel of its own, which gets the name of the base only
//! when the build has succeeded: until then clones are made from the old base,
//! and a failed or killed build does not affect it. A lock file allows one build
//! of a base at a time among all processes of a user.

mod build;
mod build_order;
mod build_pixel;
mod error;
mod log_tail;
mod recipe;
mod setup;
mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use build::BuildObserver;
pub use error::Error;
pub use status::BaseStatus;

use crate::config;
pub use crate::config::Parent;
use crate::lifecycle::InstanceDefaults;
use crate::model::Name;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Builds bases and reports their status.
#[derive(Debug, Clone)]
pub struct BaseBuilder {
    pub defaults: InstanceDefaults,
    pub bases: BTreeMap<String, config::Base>,
    /// Prefix of the names of their pixels.
    pub prefix: String,
    /// The directory of the lock files, shared by all processes of a user.
    pub lock_dir: PathBuf,
}

impl BaseBuilder {
    fn config(&self, base: &str) -> Result<&config::Base> {
        self.bases.get(base).ok_or_else(|| Error::Unknown {
            base: base.to_owned(),
            known: self.bases.keys().cloned().collect(),
        })
    }

    /// The name of the pixel that holds a base.
    pub fn pixel(&self, base: &str) -> Result<Name> {
        self.config(base)?;
        self.name(base, "")
    }

    /// The name of the pixel in which a base is built.
    fn build_pixel(&self, base: &str) -> Result<Name> {
        self.name(base, "-building")
    }

    fn name(&self, base: &str, suffix: &str) -> Result<Name> {
        let name = format!("{}{base}{suffix}", self.prefix);
        name.parse().map_err(Error::Name)
    }
}
