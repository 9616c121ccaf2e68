//! Writes files into a pixel from outside with the server's file method.
//!
//! The method writes to any path on the server as root, follows symbolic links,
//! and writes below the mount point if the pixel's disk is not mounted. pixels
//! uses the method only for the bootstrap, while only programs of the image
//! have run in the pixel, and checks every component of a path.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::Truenas;
use super::rpc::FILE_RECEIVE;
use super::wire::{Stat, Virt};
use crate::model::{Error, GuestFile, Name, Result, Subject};
use crate::retry::{self, Next};

/// Maximum file size in bytes. A request contains the whole file in Base64.
const MAX_FILE: usize = 1 << 20;
const POOLS: &str = "/var/lib/incus/storage-pools";
/// Time limit for the server to mount the disk after a start.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// The path of a running pixel's root filesystem on the server.
#[derive(Debug)]
pub(super) struct RootFs(String);

impl Truenas {
    /// Returns a running pixel's root filesystem. Waits until the disk is mounted.
    pub(super) async fn root_fs(&self, name: &Name, virt: &Virt) -> Result<RootFs> {
        let wrong_state = |state: &str| Error::WrongState {
            subject: Subject::pixel(name),
            state: state.to_owned(),
        };
        if virt.status != "RUNNING" {
            return Err(wrong_state("not running, so its disk is not mounted"));
        }
        let pool = virt.storage_pool.as_deref().unwrap_or_default();
        check_pool(pool)?;
        retry::until(MOUNT_TIMEOUT, || async {
            // Servers set up with early releases use the name "default" for any pool.
            for pool in [pool, "default"] {
                let disk = format!("{POOLS}/{pool}/containers/{}", virt.name);
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
            Next::Again(wrong_state("not mounted on the server"))
        })
        .await
        .unwrap_or_else(Err)
    }

    /// Writes a file of 1 byte to 1 MiB. Fails with `Error::Invalid` if a path
    /// component is a link or has an unexpected type.
    pub(super) async fn write_into(&self, root: &RootFs, file: &GuestFile) -> Result<()> {
        if file.content.is_empty() || file.content.len() > MAX_FILE {
            let text = format!("{}: bootstrap files must have 1 byte to 1 MiB", file.path);
            return Err(Error::Invalid(text.into()));
        }
        let components = components(&file.path)?;
        let mut path = root.0.clone();
        let mut exists = true;
        for (number, component) in components.iter().enumerate() {
            let parent = path.clone();
            path = format!("{parent}/{component}");
            // The rest of the path does not exist if a component does not exist.
            if !exists {
                continue;
            }
            let expected = match number + 1 == components.len() {
                true => "FILE",
                false => "DIRECTORY",
            };
            let is_expected = match self.stat(&path).await? {
                Some(stat) => stat.realpath == path && stat.kind == expected,
                None => {
                    exists = false;
                    // `stat` does not find a dangling link, but a write would follow the link.
                    !self.has_entry(&parent, component).await?
                }
            };
            if !is_expected {
                let text = format!(
                    "{}: a component of the path is a link or has an unexpected type",
                    file.path
                );
                return Err(Error::Invalid(text.into()));
            }
        }
        let options = json!({"mode": file.mode, "uid": file.owner.uid, "gid": file.owner.gid});
        let params = json!([path, BASE64_STANDARD.encode(&file.content), options]);
        self.rpc
            .write::<Value>(FILE_RECEIVE, params)
            .await
            .map(drop)
            .map_err(|failure| failure.into_error_for(Subject::Path(file.path.clone())))
    }

    /// Whether the directory has an entry with this name, of any type.
    async fn has_entry(&self, dir: &str, name: &str) -> Result<bool> {
        #[derive(serde::Deserialize)]
        struct Entry {}
        let params = json!([dir, [["name", "=", name]], {"select": ["name"]}]);
        let entries: Vec<Entry> = self.rpc.read("filesystem.listdir", params).await?;
        Ok(!entries.is_empty())
    }

    /// Returns the status of a path, or `None` if missing. Follows links.
    async fn stat(&self, path: &str) -> Result<Option<Stat>> {
        match self.rpc.read("filesystem.stat", json!([path])).await {
            Ok(stat) => Ok(Some(stat)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }
}

fn check_pool(pool: &str) -> Result<()> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':');
    if !pool.is_empty() && pool.chars().all(is_valid) && !pool.starts_with('.') {
        return Ok(());
    }
    Err(Error::Protocol(format!("invalid pool name {pool:?}")))
}

/// Splits an absolute path without `.` and `..` into components.
fn components(path: &str) -> Result<Vec<&str>> {
    let invalid = || Error::Invalid(format!("{path:?} is not a plain absolute path").into());
    let components: Vec<&str> = path
        .strip_prefix('/')
        .ok_or_else(invalid)?
        .split('/')
        .collect();
    let is_valid = |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains('\0');
    match components.iter().all(is_valid) {
        true => Ok(components),
        false => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_and_dotdot_paths_rejected() {
        assert_eq!(components("/etc/ssh/x").unwrap(), ["etc", "ssh", "x"]);
        for invalid in [
            "", "/", "etc/x", "/../x", "/a/../b", "/a//b", "/a/./b", "/a/", "/a\0b", "/..",
        ] {
            assert!(components(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn pool_name_has_one_component() {
        assert!(check_pool("tank").is_ok());
        for invalid in ["", "a/b", "..", "a b"] {
            assert!(check_pool(invalid).is_err(), "{invalid}");
        }
    }
}
