//! Policies enforced inside the pixel itself, for networks without a gateway:
//! a packet filter and a resolver that are in force before the network is up,
//! and a `sudo` that cannot lift them. Root inside can. Knows the inside of a
//! pixel, not the server.

mod files;
mod place;
mod ruleset;

pub use files::{Files, OPEN_SUDO};
pub use place::{enforce, in_force, is_able, lift, remove, write};
