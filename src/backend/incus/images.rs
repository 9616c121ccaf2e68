//! Looks up images for new instances.

use super::client::{Client, encode};
use super::error::Failure;
use super::messages::Meaning;
use super::wire::ImageAlias;
use crate::model::{Error, Reason, Result, Subject};

/// Whether the server has a local image with this alias.
pub(super) async fn has(client: &Client, alias: &str) -> Result<bool> {
    let path = format!("/1.0/images/aliases/{}", encode(alias));
    match client.get::<ImageAlias>(&path).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_not_found() => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// Returns the aliases of the server's local images.
pub(super) async fn aliases(client: &Client) -> Result<Vec<String>> {
    let aliases: Vec<ImageAlias> = client.get("/1.0/images/aliases?recursion=1").await?;
    Ok(aliases.into_iter().map(|alias| alias.name).collect())
}

/// Returns the error for a failed creation with an image from the image server
/// `server`. `None` if the failure is not about the image.
pub(super) fn download_error(image: &str, server: &str, failure: &Failure) -> Option<Error> {
    match failure.meaning()? {
        Meaning::ImageMissing => {
            tracing::debug!(%failure, "image server");
            Some(Error::NotFound(Subject::Image(image.to_owned())))
        }
        Meaning::ImageFailed => Some(Error::Unreachable {
            endpoint: format!("the image server {server} for image {image:?}"),
            reason: Reason::from(failure.to_string())
                .with_hint("to build an image without the image server, run: pixels setup"),
        }),
        _ => None,
    }
}
