//! What commands and servers do to a pixel, free of any terminal: create,
//! fork, run a command, find and remove what was left half-made.

mod create;
mod creator;
mod destroy;
mod exec;
pub mod expiry;
mod fork;
pub mod gateway;
mod guest_policy;
pub mod history;
mod identity;
mod instance_defaults;
mod network;
mod orphans;
mod policy;
mod policy_properties;
pub mod provisioning;
mod restore;
mod rollback;
pub mod session;
mod start;
mod template;
pub mod usage;
mod user;

#[cfg(test)]
#[path = "../../tests/fuzz/lifecycle.rs"]
mod fuzz;

pub use create::{Create, create};
pub use creator::{Creator, CreatorState};
pub use destroy::destroy;
pub use exec::{ExecOptions, ExecResult, ID as EXEC_ID, SignalSource, end, exec, wrap};
pub use fork::{Fork, Names, fork};
pub use guest_policy::GuestPolicy;
pub use instance_defaults::{DefaultImage, InstanceDefaults};
pub use network::Network;
pub use orphans::{Orphan, find as find_leftovers, may_be_incomplete, remove as remove_leftover};
pub use policy::{ChangeError, Enforcer, change_policy, denials, end_interim_policy, is_enforced};
pub use policy_properties::{clone_policy_properties, is_interim, recorded_policy, source_policy};
pub use restore::restore;
pub use start::start;
pub use template::create_template;
pub use user::User;

use crate::model;

/// Steps of a long command, told as they begin.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// A failed command that made things on the server.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Error {
    #[source]
    pub source: model::Error,
    /// What could not be removed again, each with the command that will.
    pub leftovers: Vec<String>,
}

impl From<model::Error> for Error {
    fn from(source: model::Error) -> Self {
        Self {
            source,
            leftovers: Vec::new(),
        }
    }
}
