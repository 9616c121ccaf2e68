//! Egress policies: the destinations that a pixel may reach.
//!
//! A [`Policy`] is a plain value. `nftables` and `dnsmasq` render policies;
//! `gateway` and `pixel` enforce them, outside the pixels or inside each pixel.

mod cidr;
mod denied;
mod dnsmasq;
mod domain;
pub mod gateway;
mod intersection;
mod learned;
pub mod lease;
mod nftables;
pub mod pixel;
mod policy;
mod presets;
mod rule;
mod script;

#[cfg(test)]
mod fuzz;

pub use cidr::Cidr;
pub use denied::{Denial, Denials, denials};
pub use domain::Domain;
pub use learned::learned_rule;
pub use policy::{ChangeError, InvalidRecord, KEY, Mode, Policy, ResolvedPolicy, Verdict};
pub use presets::{Group, Presets, presets};
pub use rule::{InvalidRule, Rule, Target};
