//! The image of pixels for which no image is named.

use crate::cli::Context;
use crate::config::Origin;
use crate::host;
use crate::lifecycle::DefaultImage;

/// Whether `defaults.image` has its built-in value.
pub(super) fn image_is_default(context: &Context) -> bool {
    context.loaded.origin("defaults.image") == Some(&Origin::Default)
}

/// The built-in default image and its fallback; `None` if the user chose an image.
pub(super) fn default_image(context: &Context) -> Option<DefaultImage> {
    image_is_default(context).then(|| DefaultImage {
        image: context.settings().defaults.image.clone(),
        fallback_prefix: host::FALLBACK_IMAGE_PREFIX.to_owned(),
    })
}

/// The alias of `defaults.image`. If the user chose no image and the server has
/// only the image that `setup` built, that image; a status line reports it.
pub async fn resolve_default_image(context: &Context) -> anyhow::Result<String> {
    let image = context.settings().defaults.image.clone();
    let Some(default) = default_image(context) else {
        return Ok(image);
    };
    let resolving = default.resolve(context.backend()?);
    let resolved = context.unless_interrupted(resolving).await?;
    if resolved != image {
        context.ui.status(&format!(
            "No image {image} on this server: using {resolved}, which pixels setup built"
        ));
    }
    Ok(resolved)
}
