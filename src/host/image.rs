//! Fallback images, which are built from the host distribution's packages and
//! replace the default image if it cannot be downloaded.

use std::path::Path;
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method};
use serde_json::json;
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use super::command;
use super::error::Error;
use super::incus_facts::image_aliases;
use super::plan::Recipe;
use crate::backend::incus::Client;
use crate::model;

/// Alias prefix of images built by `pixels setup`. Distribution and release
/// follow, as in `pixels/debian-12`.
pub const FALLBACK_IMAGE_PREFIX: &str = "pixels/";

const SCRIPT: &str = include_str!("scripts/build-image.sh");
const IMPORT_TIMEOUT: Duration = Duration::from_secs(600);
const UPLOAD_CHUNK: usize = 128 * 1024;

/// Returns the alias of the newest image that `pixels setup` built, to replace
/// an unavailable default image. `None` if the server has no such image.
///
/// Sends one request.
pub async fn fallback_image(client: &Client) -> model::Result<Option<String>> {
    let aliases = image_aliases(client).await?;
    Ok(fallback_among(aliases.iter().map(String::as_str)))
}

/// Returns the fallback image with the newest release among these aliases.
pub fn fallback_among<'a>(aliases: impl Iterator<Item = &'a str>) -> Option<String> {
    aliases
        .filter(|alias| alias.starts_with(FALLBACK_IMAGE_PREFIX))
        .max()
        .map(str::to_owned)
}

/// Builds an image and imports it with the recipe's alias.
pub async fn build(
    client: &Client,
    recipe: &Recipe,
    work_dir: &Path,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Error> {
    let step = format!("build image {:?}", recipe.alias);
    let out = tempfile::Builder::new()
        .prefix("pixels-image-parts.")
        .tempdir_in(work_dir)
        .map_err(|e| Error::file("cannot create a directory in", work_dir, e))?;
    let write = |name: &str, text: &str| {
        let path = out.path().join(name);
        std::fs::write(&path, text).map_err(|e| Error::file("cannot write", &path, e))
    };
    write("build-image.sh", SCRIPT)?;
    write("image.sources", &recipe.sources)?;
    command::run_checked(&step, &recipe.command(work_dir, out.path()), on_line).await?;
    on_line(&format!("importing as {}", recipe.alias));
    import(
        client,
        &out.path().join("metadata.tar.xz"),
        &out.path().join("rootfs.squashfs"),
        &recipe.alias,
    )
    .await
    .map_err(|error| Error::server(format!("cannot import image {:?}", recipe.alias), error))?;
    Ok(())
}

/// Imports a split container image with the alias `alias` and returns its
/// fingerprint. If the alias is in use, deletes the imported image.
pub async fn import(
    client: &Client,
    metadata: &Path,
    rootfs: &Path,
    alias: &str,
) -> model::Result<String> {
    let form = Form::new()
        .part("metadata", file_part(metadata, "metadata.tar.xz").await?)
        .part("rootfs", file_part(rootfs, "rootfs.squashfs").await?);
    let mut headers = vec![
        ("X-Incus-public", "0".into()),
        ("X-Incus-filename", "rootfs.squashfs".into()),
    ];
    let alias_in_request = client.server().await?.has("image_import_alias");
    if alias_in_request {
        let value: String = url::form_urlencoded::byte_serialize(alias.as_bytes()).collect();
        headers.push(("X-Incus-aliases", format!("alias={value}")));
    }
    let running = client.start_upload("/1.0/images", &headers, form).await?;
    let operation = running.wait("importing an image", IMPORT_TIMEOUT).await?;
    let fingerprint = operation.metadata["fingerprint"]
        .as_str()
        .ok_or_else(|| model::Error::Protocol("an imported image without a fingerprint".into()))?
        .to_owned();
    if alias_in_request {
        return Ok(fingerprint);
    }
    let body = json!({ "name": alias, "target": fingerprint, "type": "container" });
    if let Err(error) = client
        .send(Method::POST, "/1.0/images/aliases", &body)
        .await
    {
        delete(client, &fingerprint).await?;
        return Err(error.into());
    }
    Ok(fingerprint)
}

/// Returns a part that streams the file at `path`. The length of every part is
/// known, so the request has a content length and is not chunked.
async fn file_part(path: &Path, file_name: &'static str) -> model::Result<Part> {
    let opened = async {
        let file = File::open(path).await?;
        let length = file.metadata().await?.len();
        Ok((file, length))
    };
    let (file, length) = opened
        .await
        .map_err(|e| model::Error::io(format!("cannot read {}", path.display()), e))?;
    let body = Body::wrap_stream(ReaderStream::with_capacity(file, UPLOAD_CHUNK));
    Ok(Part::stream_with_length(body, length).file_name(file_name))
}

/// Deletes an image and its aliases.
async fn delete(client: &Client, fingerprint: &str) -> model::Result<()> {
    let path = format!("/1.0/images/{fingerprint}");
    let running = client.start(Method::DELETE, &path, &json!({})).await?;
    running.wait("deleting an image", IMPORT_TIMEOUT).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallback_among_several_is_the_newest_built_image() {
        let all = [
            "lab",
            "pixels/debian-12",
            "pixels/debian-13",
            "ubuntu/24.04",
        ];
        assert_eq!(
            fallback_among(all.into_iter()).as_deref(),
            Some("pixels/debian-13")
        );
        assert_eq!(fallback_among(["lab"].into_iter()), None);
    }

    #[tokio::test]
    async fn file_part_of_missing_file_is_an_error() {
        let part = file_part(Path::new("/nonexistent/a"), "a").await;
        assert!(matches!(part, Err(model::Error::Io { .. })), "{part:?}");
    }
}
