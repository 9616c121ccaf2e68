//! Converts settings to arguments of library functions: network, image, policy
//! and provisioning plan of new pixels, and options for the host.

mod network;
mod provisioning;

pub use network::{gateway_from_settings, network_from_settings, settings_policy};
pub use provisioning::plan_from_settings;

use crate::base::BaseBuilder;
use crate::cli::Context;
use crate::config::Origin;
use crate::lifecycle::{DefaultImage, InstanceDefaults};
use crate::model::Limits;
use crate::provision::Plan;
use crate::{backend, host, user_dirs};

/// The server, image, storage pool and network that `setup` and `doctor` check
/// on a host.
pub fn host_options(context: &Context) -> host::Options {
    let settings = context.settings();
    let incus = backend::incus_options(settings);
    let mut options = host::Options::new(
        incus.endpoint,
        settings.defaults.image.clone(),
        incus.image_server,
    );
    options.project = incus.project;
    options.pool = incus.placement.pool;
    // A host interface replaces a network managed by Incus.
    options.network = incus.placement.network.or(incus.placement.parent);
    options.image_is_default = image_is_default(context);
    options
}

/// Whether `defaults.image` has its built-in value.
fn image_is_default(context: &Context) -> bool {
    context.loaded.origin("defaults.image") == Some(&Origin::Default)
}

/// The settings of all new pixels. Without `plan`, provisioning is skipped.
///
/// Fails if no pixel can be created with these settings.
pub fn instance_defaults(
    context: &Context,
    plan: Option<Plan>,
) -> anyhow::Result<InstanceDefaults> {
    let settings = context.settings();
    let defaults = &settings.defaults;
    let mcp_image = settings.mcp.default_image.as_ref();
    Ok(InstanceDefaults {
        network: network_from_settings(context)?,
        gateway: gateway_from_settings(context)?,
        policy: settings_policy(context)?,
        plan,
        limits: Limits {
            cpu: defaults.cpu.clone(),
            memory: defaults.memory_mib.map(|mib| mib << 20),
            // Backends apply `defaults.disk`, because it depends on the storage pool.
            disk: None,
        },
        image: mcp_image.unwrap_or(&defaults.image).clone(),
        default_image: image_is_default(context).then(|| DefaultImage {
            image: defaults.image.clone(),
            fallback_prefix: host::FALLBACK_IMAGE_PREFIX.to_owned(),
        }),
    })
}

/// The alias of `defaults.image`, or of the image that `setup` built if the
/// user chose no image and the server has no other. Prints the replacement.
pub async fn resolve_default_image(
    context: &Context,
    defaults: &InstanceDefaults,
) -> anyhow::Result<String> {
    let image = &context.settings().defaults.image;
    let resolving = defaults.resolve_image(context.backend()?, image);
    let resolved = context.unless_interrupted(resolving).await?;
    if resolved != *image {
        context.ui.status(&format!(
            "No image {image} on this server: using {resolved}, which pixels setup built"
        ));
    }
    Ok(resolved)
}

pub fn base_builder(context: &Context) -> anyhow::Result<BaseBuilder> {
    let mcp = &context.settings().mcp;
    let plan = plan_from_settings(context)?;
    Ok(BaseBuilder {
        defaults: instance_defaults(context, plan)?,
        bases: mcp.bases.clone(),
        prefix: mcp.base_prefix.clone(),
        lock_dir: user_dirs::cache_dir(&|name| std::env::var_os(name))?.join("builds"),
    })
}
