//! Turns settings into what the library functions take: the network of new
//! pixels, their defaults, and the provisioning plan.

mod defaults;
mod network;
mod provisioning;

pub use defaults::{base_builder, default_image_from_settings};
pub use network::{
    default_policy_in_mode, gateway_from_settings, network_from_settings, policy_for_clone,
    policy_for_new,
};
pub use provisioning::plan_from_settings;
