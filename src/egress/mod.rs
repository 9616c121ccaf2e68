//! What pixels may reach. A policy is a pure value; `render` turns it into
//! what enforces it; the placements below put that into force.

mod denials;
mod entry;
pub mod gateway;
mod net;
pub mod pixel;
mod policy;
mod presets;
mod render;

#[cfg(test)]
#[path = "../../tests/fuzz/egress.rs"]
mod fuzz;

pub use denials::{Denial, denials};
pub use entry::{Domain, Entry, InvalidEntry, Target};
pub use net::Net;
pub use policy::{ChangeError, Effective, INTERIM, KEY, Mode, Policy, Unreadable, Verdict};
pub use presets::{Group, Presets, presets};
