//! The defaults of new pixels, for `create`, for bases and for the MCP server.

use super::{image, network, provisioning};
use crate::base::BaseBuilder;
use crate::cli::Context;
use crate::lifecycle::InstanceDefaults;
use crate::model::Limits;
use crate::provision::Plan;
use crate::user_dirs;

/// The settings of every new pixel. `plan`: `None` skips provisioning.
///
/// Fails for settings that no pixel could be created with.
pub fn instance_defaults(
    context: &Context,
    plan: Option<Plan>,
) -> anyhow::Result<InstanceDefaults> {
    let settings = context.settings();
    let defaults = &settings.defaults;
    Ok(InstanceDefaults {
        network: network::network_from_settings(context)?,
        gateway: network::gateway_from_settings(context)?,
        policy: network::settings_policy(context)?,
        plan,
        limits: Limits {
            cpu: defaults.cpu.clone(),
            memory: defaults.memory_mib.map(|mib| mib * 1024 * 1024),
        },
        image: settings
            .mcp
            .default_image
            .clone()
            .unwrap_or_else(|| defaults.image.clone()),
        default_image: image::default_image(context),
    })
}

pub fn base_builder(context: &Context) -> anyhow::Result<BaseBuilder> {
    let settings = context.settings();
    let local_env = |name: &str| std::env::var_os(name);
    let plan = provisioning::plan_from_settings(context)?;
    Ok(BaseBuilder {
        defaults: instance_defaults(context, plan)?,
        bases: settings.mcp.bases.clone(),
        prefix: settings.mcp.base_prefix.clone(),
        lock_dir: user_dirs::cache_dir(&local_env)?.join("builds"),
    })
}
