//! Policies enforced outside the pixels, by a gateway instance between their
//! segment and everything else: one resolver for each distinct policy, one
//! packet filter for all. Knows the inside of the gateway, not the server.

mod apply;
mod clients;
mod desired_state;
mod provision;
mod ruleset;
mod state_files;
mod subnet;

pub use apply::{GatewayState, apply_locked};
pub use clients::{ADDRESS, Client, address_of, allocated_addresses, clients};
pub use desired_state::DesiredState;
pub use provision::{install, learned, version};
pub use state_files::StateFiles;
pub use subnet::{InvalidSubnet, Subnet};
