//! Operations on pixels, without a terminal: create, fork, start, restore and
//! destroy pixels, run commands, and find leftovers of interrupted commands.

mod address;
mod assumed_user;
mod boot;
mod checkpoint;
mod console;
mod create;
mod creator;
mod destroy;
mod exec;
pub mod expiry;
mod file_access;
mod fork;
pub mod gateway;
mod guest_policy;
pub mod history;
mod identity;
mod instance_defaults;
mod learned;
mod lease;
mod listing;
mod network;
mod orphans;
mod policy;
mod policy_properties;
mod preconditions;
mod private_env;
pub mod provisioning;
mod restore;
mod rollback;
pub mod session;
mod start;
mod template;
pub mod usage;
mod user;
mod walls;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod lifecycle_test;

pub use address::wait_for_address;
pub use assumed_user::AssumedUser;
pub use boot::{BootStage, wait_for_boot};
pub use checkpoint::{create_checkpoint, restore_or_wait};
pub use console::wait_for_multiplexer;
pub use create::{PixelRequest, PixelSource};
pub use creator::{Creator, CreatorState};
pub use destroy::destroy;
pub use exec::{EXEC_ID, ExecOptions, ExecResult, ExecStreams, exec, run_script, terminate};
pub use file_access::{ensure_can_set_owner, file_access};
pub use fork::{CloneNames, ForkOptions, fork};
pub use guest_policy::GuestPolicy;
pub use instance_defaults::{DefaultImage, InstanceDefaults};
pub use learned::learned_rule;
pub use lease::{
    Lease, begin_provisioning, finish_provisioning, lease, leases, policy_during_lease,
};
pub use listing::{add_gateway_addresses, refresh_provisioning};
pub use network::Network;
pub use orphans::{Orphan, find_orphans, may_be_incomplete, remove_orphan};
pub use policy::{Enforcer, change_policy, denials, is_enforced};
pub use policy_properties::{clone_policy_properties, recorded_policy, source_policy};
pub use preconditions::{ensure_running, ensure_unprivileged};
pub use restore::{ChoosePolicy, restore};
pub use start::start;
pub use template::create_template;
pub use user::User;
pub use walls::{Attempt, Proof, Verdict, test_walls};

use crate::model;

/// Callback that gets the name of each phase of a long command when it begins.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Error of a command that creates or starts instances.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Error {
    #[source]
    pub source: model::Error,
    /// Leftovers that cleanup could not delete, each with a command.
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

/// Converts [`model::Error::NotFound`] to `None`.
pub fn optional<T>(outcome: model::Result<T>) -> model::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
