//! Policies enforced outside the pixels, by a gateway instance between their
//! segment and everything else: one resolver for each distinct policy, one
//! packet filter for all. Knows the inside of the gateway, not the server.

mod desired;
mod install;
mod members;
mod payload;
mod ruleset;
mod session;
mod subnet;

pub use desired::Desired;
pub use install::{install, learned, version};
pub use members::{ADDRESS, Member, address_of, members, taken};
pub use payload::Payload;
pub use session::{Ready, turn};
pub use subnet::{InvalidSubnet, Subnet};
