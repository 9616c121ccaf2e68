//! The pixels that a command lists. Every listing also deletes expired pixels,
//! because no daemon deletes them.

use super::{Context, from_settings};
use crate::lifecycle::expiry;
use crate::model::{Error, Instance, Name, Subject};

/// Deletes expired pixels and returns the other pixels. Prints the name of each
/// deleted pixel, and a warning for each pixel that cannot be deleted.
pub async fn list_unexpired(context: &Context) -> anyhow::Result<Vec<Instance>> {
    let backend = context.backend()?;
    let mut pixels = context.unless_interrupted(backend.list()).await?;
    if !pixels.iter().any(expiry::is_expired) {
        return Ok(pixels);
    }
    let gateway_spec = from_settings::gateway_from_settings(context)?;
    let deleting = expiry::destroy_expired(backend, &gateway_spec, &mut pixels);
    let outcomes = context.interruptible(deleting).await?;
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) => context.ui.status(&format!("Deleted {name}: expired")),
            Err(error) => context
                .ui
                .warn(&format!("cannot delete expired pixel {name}: {error}")),
        }
    }
    Ok(pixels)
}

/// Keeps the pixels that `names` lists, or all pixels if `names` is empty.
/// Fails if a pixel does not exist.
pub fn keep_named(pixels: &mut Vec<Instance>, names: &[Name]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let exists = |name: &&Name| pixels.iter().any(|pixel| pixel.name == **name);
    if let Some(missing) = names.iter().find(|name| !exists(name)) {
        return Err(Error::NotFound(Subject::pixel(missing)));
    }
    pixels.retain(|pixel| names.contains(&pixel.name));
    Ok(())
}
