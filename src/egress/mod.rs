//! What pixels may reach. A policy is a pure value; `render` turns it into
//! what enforces it; the placements below put that into force.

mod cidr;
mod denied;
pub mod gateway;
pub mod pixel;
mod policy;
mod presets;
mod render;
mod rule;

#[cfg(test)]
#[path = "../../tests/fuzz/egress.rs"]
mod fuzz;

pub use cidr::Cidr;
pub use denied::{Denial, denials};
pub use policy::{ChangeError, INTERIM, KEY, Mode, Policy, ResolvedPolicy, Unreadable, Verdict};
pub use presets::{Group, Presets, presets};
pub use rule::{Domain, InvalidRule, Rule, Target};
