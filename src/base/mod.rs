//! Bases: prepared pixels that others are cloned from. The settings say what
//! each is made of; the server says which are there. The newest checkpoint of
//! a base's pixel is what clones are made from, whoever took it.
//!
//! A base is built in a pixel of its own and takes its name only when it is
//! finished: who clones meanwhile gets the one before, and a build that fails
//! or is killed takes nothing away. One build of a base at a time, over all
//! processes of this user.

mod build;
mod build_order;
mod build_pixel;
mod error;
mod log_tail;
mod recipe;
mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use build::BuildObserver;
pub use error::Error;
pub use status::BaseStatus;

use crate::config;
use crate::lifecycle::InstanceDefaults;
use crate::model::Name;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that bases are made with.
#[derive(Debug, Clone)]
pub struct BaseBuilder {
    pub defaults: InstanceDefaults,
    pub bases: BTreeMap<String, config::Base>,
    /// How the names of their pixels begin.
    pub prefix: String,
    /// The folder of the lock files, the same for all processes of a user.
    pub locks: PathBuf,
}

impl BaseBuilder {
    fn base(&self, base: &str) -> Result<&config::Base> {
        self.bases.get(base).ok_or_else(|| Error::Unknown {
            base: base.to_owned(),
            known: self.bases.keys().cloned().collect(),
        })
    }

    /// The pixel that holds a base.
    pub fn pixel(&self, base: &str) -> Result<Name> {
        self.base(base)?;
        self.named(base, "")
    }

    /// The pixel in which a base is built.
    fn work(&self, base: &str) -> Result<Name> {
        self.named(base, "-building")
    }

    fn named(&self, base: &str, suffix: &str) -> Result<Name> {
        let name = format!("{}{base}{suffix}", self.prefix);
        name.parse().map_err(Error::Name)
    }
}
