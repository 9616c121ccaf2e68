//! Settings to what a server, or a build, makes pixels with.

use super::{network, provisioning};
use crate::base::BaseBuilder;
use crate::cli::{Context, setup};
use crate::host;
use crate::lifecycle::{DefaultImage, InstanceDefaults};
use crate::model::Limits;
use crate::user_dirs;

/// What the settings say of every pixel. Bad settings are told here, before
/// anything is made.
fn defaults_from_settings(context: &Context) -> anyhow::Result<InstanceDefaults> {
    let settings = context.settings();
    let defaults = &settings.defaults;
    Ok(InstanceDefaults {
        network: network::network_from_settings(context)?,
        gateway: network::gateway_from_settings(context)?,
        policy: network::settings_policy(context)?,
        plan: provisioning::plan_from_settings(context)?,
        limits: Limits {
            cpu: defaults.cpu.clone(),
            memory: defaults.memory_mib.map(|mib| mib * 1024 * 1024),
        },
        image: settings
            .mcp
            .default_image
            .clone()
            .unwrap_or_else(|| defaults.image.clone()),
        default_image: default_image_from_settings(context),
    })
}

/// The default image and its fallback; `None` if the user configured an image.
pub fn default_image_from_settings(context: &Context) -> Option<DefaultImage> {
    setup::image_is_default(context).then(|| DefaultImage {
        image: context.settings().defaults.image.clone(),
        fallback_prefix: host::FALLBACK_IMAGE_PREFIX.to_owned(),
    })
}

/// What bases are made with.
pub fn base_builder(context: &Context) -> anyhow::Result<BaseBuilder> {
    let settings = context.settings();
    let ours = |name: &str| std::env::var_os(name);
    Ok(BaseBuilder {
        defaults: defaults_from_settings(context)?,
        bases: settings.mcp.bases.clone(),
        prefix: settings.mcp.base_prefix.clone(),
        lock_dir: user_dirs::cache_dir(&ours)?.join("builds"),
    })
}
