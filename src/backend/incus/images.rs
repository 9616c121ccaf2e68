//! Images that new instances are made from.

use super::client::{Client, encode};
use super::error::Failure;
use super::wire::ImageAlias;
use crate::model::{Error, Result, Subject};

/// Whether the server has an image of this alias itself.
pub(super) async fn has(client: &Client, alias: &str) -> Result<bool> {
    let path = format!("/1.0/images/aliases/{}", encode(alias));
    match client.get::<ImageAlias>(&path).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_not_found() => Ok(false),
        Err(failure) => Err(failure.into_error()),
    }
}

pub(super) async fn aliases(client: &Client) -> Result<Vec<String>> {
    let aliases: Vec<ImageAlias> = client
        .get("/1.0/images/aliases?recursion=1")
        .await
        .map_err(Failure::into_error)?;
    Ok(aliases.into_iter().map(|alias| alias.name).collect())
}

pub(super) fn is_fault(failure: &Failure) -> bool {
    matches!(failure, Failure::Api { message, .. }
        if message.contains("image") || message.contains("Image") || message.contains("simplestreams"))
}

pub(super) fn missing(image: &str, server: &str, failure: Failure) -> Error {
    match failure {
        Failure::Api { message, .. } if message.contains("found") => {
            tracing::debug!(message, "image server");
            Error::NotFound(Subject::Image(image.to_owned()))
        }
        other => Error::Unreachable {
            endpoint: format!("the image server {server}, which is needed for image {image:?}"),
            reason: other.to_string().into(),
        },
    }
}
