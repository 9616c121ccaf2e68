//! Files in a sandbox. Paths are absolute, links lead where they lead inside
//! the sandbox, and content need not be text.

use super::encoding::{Content, ENTRIES, Listing, content, listing, replaced};
use super::error::{Error, Result};
use super::service::Service;
use crate::lifecycle::User;
use crate::model::{self, ExecRequest, FileKind, FileStat, Guest, GuestFile, Ids, Subject};

/// What `read_file` returns when nothing else is asked for, and at most.
const READ: u64 = 1024 * 1024;
pub const MOST: u64 = 10 * 1024 * 1024;
const LINKS: u32 = 40;

impl Service {
    pub async fn read_file(&self, name: &str, path: &str, most: Option<u64>) -> Result<Content> {
        let path = checked(path)?;
        let (_, pixel, _shared) = self.lock_for_use(name).await?;
        self.touch(name);
        let guest = self.backend.guest(&pixel);
        let (path, stat) = resolve(&*guest, path).await?;
        let limit = most.filter(|most| *most > 0).unwrap_or(READ).min(MOST);
        let bytes = guest.read_file(&path, limit + 1).await?;
        Ok(content(bytes, limit, stat.size))
    }

    /// Creates or replaces a file, with the folders it is in where missing. An
    /// existing one keeps its owner, and its mode unless one is given.
    pub async fn write_file(
        &self,
        name: &str,
        path: &str,
        bytes: Vec<u8>,
        mode: Option<&str>,
    ) -> Result<u64> {
        let path = checked(path)?;
        let mode = mode.map(octal).transpose()?;
        if bytes.len() as u64 > MOST {
            return Err(Error::invalid(format!(
                "the content is larger than {MOST} bytes: fetch or make it inside the sandbox \
                 with exec"
            )));
        }
        let (_, pixel, _shared) = self.lock_for_use(name).await?;
        self.touch(name);
        let guest = self.backend.guest(&pixel);
        let login = self.login(&pixel).await?;
        let (path, owner, old) = match resolve(&*guest, path).await {
            Ok((path, stat)) => (path, stat.owner, Some(stat.mode)),
            Err(Error::Sandbox(model::Error::NotFound(Subject::Path(_)))) => {
                make_parents(&*guest, &login, path).await?;
                (path.to_owned(), login.owner, None)
            }
            Err(error) => return Err(error),
        };
        let length = bytes.len() as u64;
        let file = GuestFile {
            path,
            content: bytes,
            mode: mode.or(old).unwrap_or(0o644),
            owner,
        };
        put(&*guest, file).await?;
        Ok(length)
    }

    /// Replaces text; returns how often. Owner and mode stay.
    pub async fn edit_file(
        &self,
        name: &str,
        path: &str,
        old: &str,
        new: &str,
        all: bool,
    ) -> Result<u64> {
        let path = checked(path)?;
        let (_, pixel, _shared) = self.lock_for_use(name).await?;
        self.touch(name);
        let guest = self.backend.guest(&pixel);
        let (path, stat) = resolve(&*guest, path).await?;
        if stat.size > MOST {
            return Err(Error::invalid(format!(
                "{path} is larger than {MOST} bytes: edit it inside the sandbox with exec"
            )));
        }
        let bytes = guest.read_file(&path, MOST + 1).await?;
        let (bytes, count) = replaced(&bytes, old.as_bytes(), new.as_bytes(), all)
            .map_err(|why| Error::invalid(format!("{path} is unchanged: {why}")))?;
        let file = GuestFile {
            path,
            content: bytes,
            mode: stat.mode,
            owner: stat.owner,
        };
        put(&*guest, file).await?;
        Ok(count)
    }

    /// Removes a file or a link, never what the link leads to.
    pub async fn delete_file(&self, name: &str, path: &str) -> Result<()> {
        let path = checked(path)?;
        let (_, pixel, _shared) = self.lock_for_use(name).await?;
        self.touch(name);
        let guest = self.backend.guest(&pixel);
        if guest.stat(path).await?.kind == FileKind::Directory {
            return Err(Error::invalid(format!(
                "{path} is a folder: remove it with exec and [\"rm\", \"-r\", \"--\", ...]"
            )));
        }
        Ok(guest.remove_file(path).await?)
    }

    pub async fn list_files(&self, name: &str, path: &str, recursive: bool) -> Result<Listing> {
        let path = checked(path)?;
        let (_, pixel, _shared) = self.lock_for_use(name).await?;
        self.touch(name);
        let guest = self.backend.guest(&pixel);
        let stat = match guest.stat(path).await? {
            stat if stat.kind == FileKind::Symlink => follow(&*guest, path).await?.1,
            stat => stat,
        };
        if stat.kind != FileKind::Directory {
            return Err(Error::invalid(format!(
                "{path} is no folder: read_file reads it"
            )));
        }
        let script = include_str!("guest/list.sh");
        let depth = if recursive { "0" } else { "1" };
        let limit = (ENTRIES + 1).to_string();
        let request =
            ExecRequest::root(["/bin/sh", "-c", script, "list", path, depth, limit.as_str()]);
        let output = guest.output(&request).await?;
        Ok(listing(path, &output.stdout))
    }
}

fn checked(path: &str) -> Result<&str> {
    let wrong = |why: &str| Err(Error::invalid(format!("path {path:?}: {why}")));
    if !path.starts_with('/') {
        return wrong("give an absolute path, such as /home/pixel/notes.txt");
    }
    if path.contains('\0') {
        return wrong("it contains a NUL character");
    }
    if path.split('/').any(|part| part == "..") {
        return wrong("write it without \"..\"");
    }
    if path.len() > 4000 {
        return wrong("it is too long");
    }
    Ok(path)
}

fn octal(mode: &str) -> Result<u32> {
    u32::from_str_radix(mode.trim_start_matches("0o"), 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Error::invalid(format!("mode {mode:?}: use octal digits such as \"0644\"")))
}

/// Where a path leads, and what is there; only what can be read to an end.
async fn resolve(guest: &dyn Guest, path: &str) -> Result<(String, FileStat)> {
    let (path, stat) = match guest.stat(path).await? {
        stat if stat.kind == FileKind::Symlink => follow(guest, path).await?,
        stat => (path.to_owned(), stat),
    };
    match stat.kind {
        FileKind::File => Ok((path, stat)),
        FileKind::Directory => Err(Error::invalid(format!(
            "{path} is a folder: list_files lists it"
        ))),
        FileKind::Symlink | FileKind::Other => Err(Error::invalid(format!(
            "{path} is no regular file: use exec"
        ))),
    }
}

/// Follows links inside the sandbox, by its own view of its files.
async fn follow(guest: &dyn Guest, path: &str) -> Result<(String, FileStat)> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let request = ExecRequest::root(["readlink", "-m", "-z", "--", path.as_str()]);
        let output = guest.output(&request).await?;
        let target = output.stdout.strip_suffix(b"\0").unwrap_or_default();
        let target = std::str::from_utf8(target).map_err(|_| {
            Error::invalid(format!(
                "{path} leads to a name that is no UTF-8 text: use exec"
            ))
        })?;
        target.clone_into(&mut path);
        let stat = guest.stat(&path).await?;
        if stat.kind != FileKind::Symlink {
            return Ok((path, stat));
        }
    }
    Err(Error::invalid(format!(
        "{path} is a link that leads nowhere"
    )))
}

/// Puts a file in place of what is there: others see the old one or the new
/// one, also when this server is killed meanwhile.
async fn put(guest: &dyn Guest, file: GuestFile) -> Result<()> {
    let made_by_the_system = ["/proc/", "/sys/", "/dev/"];
    if made_by_the_system
        .iter()
        .any(|it| file.path.starts_with(it))
    {
        return Ok(guest.write_file(&file).await?);
    }
    let folder = file.path.rfind('/').map_or("", |at| &file.path[..at]);
    let mut random = [0; 4];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
        .map_err(|_| Error::invalid("no random numbers on this machine"))?;
    let number = u32::from_ne_bytes(random);
    let new = GuestFile {
        path: format!("{folder}/.pixels-{number:08x}"),
        ..file
    };
    let placed = async {
        guest.write_file(&new).await?;
        guest.rename(&new.path, &file.path).await
    };
    let Err(error) = placed.await else {
        return Ok(());
    };
    // Best effort: the first error is what matters.
    let _ = guest.remove_file(&new.path).await;
    Err(error.into())
}

/// As the user of the sandbox where that is allowed to, else as root.
async fn make_parents(guest: &dyn Guest, login: &User, path: &str) -> Result<()> {
    let parent = match path.rfind('/') {
        None | Some(0) => return Ok(()),
        Some(at) => &path[..at],
    };
    if guest.stat(parent).await.is_ok() {
        return Ok(());
    }
    let mut said = String::new();
    for owner in [login.owner, Ids::ROOT] {
        let mut request = ExecRequest::root(["mkdir", "-p", "--", parent]);
        request.owner = owner;
        let output = guest.output(&request).await?;
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    Err(Error::invalid(format!(
        "the folder {parent} cannot be made: {said}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_go_straight() {
        for good in ["/a", "/a/..b/c..", "/a b\n/é", "/-delete"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-delete", "/a/../b", "/..", "/a\0b"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
