//! Turns settings into the arguments of library functions: the network, image,
//! policy and provisioning plan of new pixels, and the options of a host.

mod host;
mod image;
mod instance_defaults;
mod network;
mod provisioning;

pub use host::host_options;
pub use image::resolve_default_image;
pub use instance_defaults::{base_builder, instance_defaults};
pub use network::{
    default_policy_in_mode, gateway_from_settings, network_from_settings, policy_for_clone,
    requested_policy,
};
pub use provisioning::plan_from_settings;
