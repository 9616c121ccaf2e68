//! Files of a pixel written from outside, by the server's own file call.
//!
//! That call writes anywhere on the server as its root, follows symlinks, and
//! writes to a hidden folder when the pixel's disk is not mounted. So it is
//! used for one thing alone, the way in to a pixel in which nothing but its
//! image has run yet; and there for paths that are checked step by step.

use std::time::Duration;

use serde_json::{Value, json};

use super::Truenas;
use super::error::Failure;
use super::rpc::FILE;
use super::wire::{Stat, Virt};
use crate::model::{Error, GuestFile, Name, Result, Subject};
use crate::retry::{self, Next};

/// Base64 in one request; what is written this way is far smaller.
const LARGEST: usize = 1 << 20;
const POOLS: &str = "/var/lib/incus/storage-pools";
/// For the disk of a pixel that was just started to be mounted.
const MOUNT: Duration = Duration::from_secs(5);

/// The root filesystem of a running pixel as the server sees it.
#[derive(Debug)]
pub(super) struct RootFs(String);

impl Truenas {
    /// Where the disk of a running pixel is mounted.
    pub(super) async fn root_fs(&self, name: &Name, found: &Virt) -> Result<RootFs> {
        let refuse = |state: &str| Error::WrongState {
            subject: Subject::pixel(name),
            state: state.to_owned(),
        };
        if found.status != "RUNNING" {
            return Err(refuse("not running, so its disk is not mounted"));
        }
        let pool = found.storage_pool.as_deref().unwrap_or_default();
        check_name(pool)?;
        retry::until(MOUNT, || async {
            // Servers set up by early releases call their pool so, whatever it is.
            for pool in [pool, "default"] {
                let disk = format!("{POOLS}/{pool}/containers/{}", found.name);
                let root = format!("{disk}/rootfs");
                match self.stat(&disk).await {
                    Ok(Some(stat)) if stat.is_mountpoint && stat.realpath == disk => {}
                    Ok(_) => continue,
                    Err(error) => return Next::Done(Err(error)),
                }
                match self.stat(&root).await {
                    Ok(Some(stat)) if stat.kind == "DIRECTORY" && stat.realpath == root => {
                        return Next::Done(Ok(RootFs(root)));
                    }
                    Ok(_) => {}
                    Err(error) => return Next::Done(Err(error)),
                }
            }
            Next::Again(refuse("not mounted on the server"))
        })
        .await
        .unwrap_or_else(Err)
    }

    /// Writes one file into a pixel that runs nothing but its image yet.
    pub(super) async fn put_first(&self, root: &RootFs, file: &GuestFile) -> Result<()> {
        if file.content.is_empty() || file.content.len() > LARGEST {
            return Err(Error::Invalid(
                format!(
                    "{}: from outside a file of 1 byte to 1 MiB can be written",
                    file.path
                )
                .into(),
            ));
        }
        let steps = steps(&file.path)?;
        let mut path = root.0.clone();
        let mut there = true;
        for (number, step) in steps.iter().enumerate() {
            let parent = path.clone();
            path = format!("{parent}/{step}");
            // Below what is missing there is nothing either.
            if !there {
                continue;
            }
            let expected = match number + 1 == steps.len() {
                true => "FILE",
                false => "DIRECTORY",
            };
            let sound = match self.stat(&path).await? {
                Some(stat) => stat.realpath == path && stat.kind == expected,
                None => {
                    there = false;
                    // A link to nowhere looks like nothing, until it is written to.
                    !self.has_entry(&parent, step).await?
                }
            };
            if !sound {
                return Err(Error::Invalid(
                    format!(
                        "{}: a link or something unexpected stands in the way, nothing was written",
                        file.path
                    )
                    .into(),
                ));
            }
        }
        let options = json!({"mode": file.mode, "uid": file.owner.uid, "gid": file.owner.gid});
        let params = json!([path, base64(&file.content), options]);
        self.rpc
            .write::<Value>(FILE, params)
            .await
            .map(drop)
            .map_err(|failure| failure.into_error_for(Subject::Path(file.path.clone())))
    }

    /// Whether a folder has an entry of this name, whatever it is.
    async fn has_entry(&self, folder: &str, name: &str) -> Result<bool> {
        #[derive(serde::Deserialize)]
        struct Entry {}
        let params = json!([folder, [["name", "=", name]], {"select": ["name"]}]);
        let found: Vec<Entry> = self.read("filesystem.listdir", params).await?;
        Ok(!found.is_empty())
    }

    /// `None` when there is nothing. Links are followed.
    async fn stat(&self, path: &str) -> Result<Option<Stat>> {
        match self.rpc.read("filesystem.stat", json!([path])).await {
            Ok(stat) => Ok(Some(stat)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(Failure::into_error(failure)),
        }
    }
}

fn check_name(pool: &str) -> Result<()> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':');
    if !pool.is_empty() && pool.chars().all(sound) && !pool.starts_with('.') {
        return Ok(());
    }
    Err(Error::Protocol(format!("the server calls a pool {pool:?}")))
}

/// The parts of an absolute path that leads nowhere but down.
fn steps(path: &str) -> Result<Vec<&str>> {
    let refuse = || Error::Invalid(format!("{path:?} is no plain absolute path").into());
    let steps: Vec<&str> = path
        .strip_prefix('/')
        .ok_or_else(refuse)?
        .split('/')
        .collect();
    let sound =
        |step: &&str| !step.is_empty() && *step != "." && *step != ".." && !step.contains('\0');
    match steps.iter().all(sound) {
        true => Ok(steps),
        false => Err(refuse()),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([&0; 2])
            .take(3)
            .fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        for place in 0..4 {
            text.push(match place <= chunk.len() {
                true => char::from(DIGITS[word >> (18 - 6 * place) & 63]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_only_leads_down() {
        assert_eq!(steps("/etc/ssh/x").unwrap(), ["etc", "ssh", "x"]);
        for bad in [
            "", "/", "etc/x", "/../x", "/a/../b", "/a//b", "/a/./b", "/a/", "/a\0b", "/..",
        ] {
            assert!(steps(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn a_pool_is_one_name() {
        assert!(check_name("tank").is_ok());
        for bad in ["", "a/b", "..", "a b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
