//! Policies enforced inside the pixel itself, for networks without a gateway:
//! a packet filter and a resolver that are in force before the network is up,
//! and a `sudo` that cannot lift them. Root inside can. Knows the inside of a
//! pixel, not the server.

mod apply;
mod files;
mod ruleset;

pub use apply::{enforce, has_packages, is_in_force, remove, remove_running, write};
pub use files::{Files, OPEN_SUDO};
