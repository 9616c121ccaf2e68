//! Enforcement outside the pixels: a gateway instance between the isolated
//! bridge and all other networks, with one resolver per distinct policy and one
//! packet filter. This module runs commands in the gateway and does not use the
//! server's API.

mod apply;
mod clients;
mod desired_state;
mod dhcp;
mod limits;
mod provision;
mod ruleset;
mod state_files;
mod subnet;

pub use apply::{GatewayState, apply_locked};
pub use clients::{
    ADDRESS, Client, PixelRecord, address_of, allocated_addresses, clients, records,
};
pub use desired_state::{DesiredState, LeaseChange};
pub use provision::{install, learned, version};
pub use state_files::StateFiles;
pub use subnet::{InvalidSubnet, Subnet};
