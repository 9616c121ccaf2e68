//! Images of our own making: built from the distribution's packages,
//! imported, and found again where the default image is out of reach.

use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::{Body, Method};
use serde::Deserialize;
use serde_json::json;

use super::command;
use super::error::Error;
use super::incus_facts::list;
use super::multipart::{Form, Part};
use super::plan::Recipe;
use crate::backend::incus::{Client, Failure};

/// What the alias of every image built by `pixels setup` begins with. The
/// rest names the distribution and release, such as `pixels/debian-12`.
pub const FALLBACK_IMAGE_PREFIX: &str = "pixels/";

const SCRIPT: &str = include_str!("scripts/build-image.sh");
const IMPORT: Duration = Duration::from_secs(600);

#[derive(Debug, Deserialize)]
struct Alias {
    name: String,
}

/// The image built by `pixels setup` that stands in for the default one when
/// that is neither on the server nor within its reach; `None` when there is
/// none. One request.
pub async fn fallback_image(client: &Client) -> Result<Option<String>, Failure> {
    let aliases: Vec<Alias> = list(client, "/1.0/images/aliases?recursion=1").await?;
    Ok(fallback_among(
        aliases.iter().map(|alias| alias.name.as_str()),
    ))
}

/// The same choice among known aliases: the newest release, where there are
/// several.
pub fn fallback_among<'a>(aliases: impl Iterator<Item = &'a str>) -> Option<String> {
    aliases
        .filter(|alias| alias.starts_with(FALLBACK_IMAGE_PREFIX))
        .max()
        .map(str::to_owned)
}

/// Builds an image and imports it under the recipe's alias.
pub async fn build(
    client: &Client,
    recipe: &Recipe,
    work_dir: &Path,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Error> {
    let step = format!("building the image {}", recipe.alias);
    let out = tempfile::Builder::new()
        .prefix("pixels-image-parts.")
        .tempdir_in(work_dir)
        .map_err(|e| Error::file("cannot make a directory in", work_dir, e))?;
    let write = |name: &str, text: &str| {
        let path = out.path().join(name);
        std::fs::write(&path, text).map_err(|e| Error::file("cannot write", &path, e))
    };
    write("build-image.sh", SCRIPT)?;
    write("image.sources", &recipe.sources)?;
    let command = recipe.command(work_dir, out.path());
    let outcome = command::run(&command, on_line)
        .await
        .map_err(|source| Error::Io {
            doing: format!("cannot run `{command}`"),
            source,
        })?;
    if !outcome.status.success() {
        return Err(Error::Command {
            step,
            command: command.to_string(),
            status: outcome.status.code(),
            output: outcome.tail,
        });
    }
    on_line(&format!("importing as {}", recipe.alias));
    import(
        client,
        &out.path().join("metadata.tar.xz"),
        &out.path().join("rootfs.squashfs"),
        &recipe.alias,
    )
    .await
    .map_err(|source| Error::Server {
        doing: format!("importing the image {}", recipe.alias),
        source,
    })?;
    Ok(())
}

/// Imports a split container image under an alias and returns its
/// fingerprint. Where the alias cannot be had, no image stays behind.
pub async fn import(
    client: &Client,
    metadata: &Path,
    rootfs: &Path,
    alias: &str,
) -> Result<String, Failure> {
    let form = Form::new(
        &boundary()?,
        &[
            Part {
                name: "metadata",
                filename: "metadata.tar.xz",
                path: metadata,
            },
            Part {
                name: "rootfs",
                filename: "rootfs.squashfs",
                path: rootfs,
            },
        ],
    );
    let mut headers = vec![
        ("Content-Type", form.content_type()),
        ("X-Incus-public", "0".into()),
        ("X-Incus-filename", "rootfs.squashfs".into()),
    ];
    let at_once = client.server().await?.has("image_import_alias");
    if at_once {
        let value: String = url::form_urlencoded::byte_serialize(alias.as_bytes()).collect();
        headers.push(("X-Incus-aliases", format!("alias={value}")));
    }
    let body = Body::wrap_stream(form.stream());
    let running = client.start_upload("/1.0/images", &headers, body).await?;
    let operation = running.wait("importing an image", IMPORT).await?;
    let fingerprint = operation.metadata["fingerprint"]
        .as_str()
        .ok_or_else(|| Failure::Protocol("an imported image has no fingerprint".into()))?
        .to_owned();
    if at_once {
        return Ok(fingerprint);
    }
    let named = json!({ "name": alias, "target": fingerprint, "type": "container" });
    if let Err(error) = client
        .send(Method::POST, "/1.0/images/aliases", &named)
        .await
    {
        remove(client, &fingerprint).await?;
        return Err(error);
    }
    Ok(fingerprint)
}

/// Deletes an image with its aliases.
pub async fn remove(client: &Client, fingerprint: &str) -> Result<(), Failure> {
    let path = format!("/1.0/images/{fingerprint}");
    let running = client.start(Method::DELETE, &path, &json!({})).await?;
    running.wait("deleting an image", IMPORT).await.map(drop)
}

/// Random, so that no file can hold it.
fn boundary() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Failure::Setup(io::Error::other("no random numbers").to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_ours_stands_in() {
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

    #[test]
    fn the_script_passes_shellcheck() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/host/scripts/build-image.sh"
        );
        match std::process::Command::new("shellcheck").arg(path).output() {
            Ok(done) => assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stdout)
            ),
            // Absent on some machines; the script is then only parsed.
            Err(_) => {
                let parsed = std::process::Command::new("sh")
                    .arg("-n")
                    .arg(path)
                    .status();
                assert!(parsed.unwrap().success());
            }
        }
    }
}
