//! Enforcement inside each pixel, for networks without a gateway: a packet
//! filter and a resolver that start before the network, and a restricted `sudo`
//! that cannot remove them. Root in the pixel can remove them. This module uses
//! the guest, not the server's API.

mod apply;
mod files;
mod lease;
mod ruleset;

pub use apply::{enforce, has_packages, is_in_force, remove, remove_running, write};
pub use files::{Files, OPEN_SUDO};
pub use lease::{begin_lease, end_lease, lease, renew_lease};
