//! The options of `setup` and `doctor`.

use super::image::image_is_default;
use crate::backend;
use crate::cli::Context;
use crate::host;

/// The server, image, storage pool and network that the settings expect of a host.
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
