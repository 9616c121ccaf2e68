//! Bases: template pixels for clones. The settings describe how to build each
//! base; the server stores the built bases. The newest checkpoint of a base's
//! pixel is cloned, whether a build or a user created it.
//!
//! A base is built in a separate pixel, which replaces the base's pixel only
//! after the build has succeeded. Until then, the old base is cloned, and a
//! failed or killed build does not affect it. A lock file allows only one build
//! of a base at a time by the processes of a user.

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
    /// Name prefix of the pixels of bases.
    pub prefix: String,
    /// Directory of the lock files, which all processes of a user share.
    pub lock_dir: PathBuf,
}

impl BaseBuilder {
    fn config(&self, base: &str) -> Result<&config::Base> {
        self.bases.get(base).ok_or_else(|| Error::Unknown {
            base: base.to_owned(),
            known: self.bases.keys().cloned().collect(),
        })
    }

    /// Returns the name of the pixel that contains a base.
    pub fn pixel(&self, base: &str) -> Result<Name> {
        self.config(base)?;
        self.name(base, "")
    }

    /// Returns the name of the pixel in which a base is built.
    fn build_pixel(&self, base: &str) -> Result<Name> {
        self.name(base, "-building")
    }

    fn name(&self, base: &str, suffix: &str) -> Result<Name> {
        let name = format!("{}{base}{suffix}", self.prefix);
        name.parse().map_err(Error::Name)
    }
}
