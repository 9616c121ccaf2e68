//! Files in a sandbox. Paths are absolute, links are resolved inside the
//! sandbox, and content may be binary. [`lifecycle::file_access`] determines the
//! rights.

use serde::{Deserialize, Serialize};

use super::encoding::{
    Encoding, FileContent, Listing, decode_content, encode_content, parse_listing, replace_text,
};
use super::error::{Error, Result};
use super::service::Service;
use super::truncate::{FILE, FILES};
use crate::lifecycle::{self, User};
use crate::model::{
    self, ExecRequest, FileKind, FileStat, Guest, GuestFile, Ids, Subject, random_hex,
};

/// Bytes that `read_file` returns by default.
const DEFAULT_READ: u64 = 1024 * 1024;
const MAX_LINKS: u32 = 40;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// The whole content of the file.
    content: String,
    /// Encoding of content: "utf-8" (default) or "base64" for binary files.
    encoding: Option<Encoding>,
    /// Permission bits in octal; by default "0644", or those of the existing file.
    mode: Option<String>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// Maximum bytes to read, by default 1 MiB, at most 10 MiB.
    max_bytes: Option<u64>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the file.
    path: String,
    /// The text to replace, exactly as in the file; must occur once.
    old_string: String,
    /// The replacement.
    new_string: String,
    /// Replace all occurrences.
    replace_all: Option<bool>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListArgs {
    /// Name of the sandbox.
    name: String,
    /// Absolute path of the directory.
    path: String,
    /// Include all subdirectories.
    recursive: Option<bool>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Written {
    ok: bool,
    bytes_written: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Edited {
    ok: bool,
    replacements: u64,
}

impl Service {
    /// Reads the first `max_bytes` of a file. Zero means the default.
    pub async fn read_file(&self, args: ReadArgs) -> Result<FileContent> {
        let path = check_path(&args.path)?;
        let (instance, _guard) = self.lock_for_files(&args.name).await?;
        let guest = lifecycle::file_access(&*self.backend, &instance);
        let (path, stat) = resolve(&*guest, path).await?;
        let limit = args.max_bytes.filter(|max| *max > 0);
        let limit = limit.unwrap_or(DEFAULT_READ).min(FILE);
        let bytes = guest.read_file(&path, limit + 1).await?;
        Ok(encode_content(bytes, limit, stat.size))
    }

    /// Creates or replaces a file, and creates missing parent directories. An
    /// existing file keeps its owner, and keeps its mode unless `mode` is set.
    pub async fn write_file(&self, args: WriteArgs) -> Result<Written> {
        let bytes = decode_content(args.content, args.encoding)?;
        let path = check_path(&args.path)?;
        let mode = args.mode.as_deref().map(parse_mode).transpose()?;
        if bytes.len() as u64 > FILE {
            return Err(Error::invalid(format!(
                "content is larger than {FILE} bytes: download or generate the file inside \
                 the sandbox with exec"
            )));
        }
        let (instance, _guard) = self.lock_for_files(&args.name).await?;
        let guest = lifecycle::file_access(&*self.backend, &instance);
        let user = User::default_for(&instance);
        let (path, owner, old_mode) = match resolve(&*guest, path).await {
            Ok((path, stat)) => (path, stat.owner, Some(stat.mode)),
            Err(Error::Backend(model::Error::NotFound(Subject::Path(_)))) => {
                make_parents(&*guest, &user, path).await?;
                (path.to_owned(), user.ids, None)
            }
            Err(error) => return Err(error),
        };
        let bytes_written = bytes.len() as u64;
        let file = GuestFile {
            path,
            content: bytes,
            mode: mode.or(old_mode).unwrap_or(0o644),
            owner,
        };
        replace(&*guest, file).await?;
        Ok(Written {
            ok: true,
            bytes_written,
        })
    }

    /// Replaces text in a file. The file keeps its owner and mode.
    pub async fn edit_file(&self, args: EditArgs) -> Result<Edited> {
        let path = check_path(&args.path)?;
        let (instance, _guard) = self.lock_for_files(&args.name).await?;
        let guest = lifecycle::file_access(&*self.backend, &instance);
        let (path, stat) = resolve(&*guest, path).await?;
        if stat.size > FILE {
            return Err(Error::invalid(format!(
                "{path} is larger than {FILE} bytes: edit the file inside the sandbox with exec"
            )));
        }
        let bytes = guest.read_file(&path, FILE + 1).await?;
        let (old, new) = (args.old_string.as_bytes(), args.new_string.as_bytes());
        let all = args.replace_all.unwrap_or(false);
        let (content, replacements) = replace_text(&bytes, old, new, all)
            .map_err(|reason| Error::invalid(format!("cannot edit {path}: {reason}")))?;
        let file = GuestFile {
            path,
            content,
            mode: stat.mode,
            owner: stat.owner,
        };
        replace(&*guest, file).await?;
        Ok(Edited {
            ok: true,
            replacements,
        })
    }

    /// Deletes a file or symlink, never the target of a symlink.
    pub async fn delete_file(&self, name: &str, path: &str) -> Result<()> {
        let path = check_path(path)?;
        let (instance, _guard) = self.lock_for_files(name).await?;
        let guest = lifecycle::file_access(&*self.backend, &instance);
        if guest.stat(path).await?.kind == FileKind::Directory {
            return Err(Error::invalid(format!(
                "{path} is a directory: delete it with exec and [\"rm\", \"-r\", \"--\", ...]"
            )));
        }
        Ok(guest.remove_file(path).await?)
    }

    /// Lists a directory, including all subdirectories if `recursive`.
    pub async fn list_files(&self, args: ListArgs) -> Result<Listing> {
        let path = check_path(&args.path)?;
        let (instance, _guard) = self.lock_for_files(&args.name).await?;
        let guest = lifecycle::file_access(&*self.backend, &instance);
        let (_, stat) = follow_links(&*guest, path).await?;
        if stat.kind != FileKind::Directory {
            return Err(Error::invalid(format!(
                "{path} is not a directory: call read_file"
            )));
        }
        let script = include_str!("guest/list.sh");
        let depth = match args.recursive {
            Some(true) => "0",
            _ => "1",
        };
        let limit = (FILES + 1).to_string();
        let request =
            ExecRequest::root(["/bin/sh", "-c", script, "list", path, depth, limit.as_str()]);
        let output = guest.output(&request).await?;
        Ok(parse_listing(path, &output.stdout))
    }
}

fn check_path(path: &str) -> Result<&str> {
    let invalid = |reason: &str| Err(Error::invalid(format!("path {path:?}: {reason}")));
    if !path.starts_with('/') {
        return invalid("use an absolute path, such as /home/pixel/notes.txt");
    }
    if path.contains('\0') {
        return invalid("contains a NUL character");
    }
    if path.split('/').any(|part| part == "..") {
        return invalid("must not contain \"..\"");
    }
    if path.len() > 4000 {
        return invalid("is longer than 4000 bytes");
    }
    Ok(path)
}

fn parse_mode(mode: &str) -> Result<u32> {
    u32::from_str_radix(mode.trim_start_matches("0o"), 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Error::invalid(format!("mode {mode:?}: use octal digits such as \"0644\"")))
}

/// Resolves symlinks. Fails unless the path is that of a regular file.
async fn resolve(guest: &dyn Guest, path: &str) -> Result<(String, FileStat)> {
    let (path, stat) = follow_links(guest, path).await?;
    match stat.kind {
        FileKind::File => Ok((path, stat)),
        FileKind::Directory => Err(Error::invalid(format!(
            "{path} is a directory: call list_files"
        ))),
        FileKind::Symlink | FileKind::Other => Err(Error::invalid(format!(
            "{path} is not a regular file: use exec"
        ))),
    }
}

/// Resolves symlinks inside the sandbox, relative to its root directory.
async fn follow_links(guest: &dyn Guest, path: &str) -> Result<(String, FileStat)> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let stat = guest.stat(&path).await?;
        if stat.kind != FileKind::Symlink {
            return Ok((path, stat));
        }
        let request = ExecRequest::root(["readlink", "-m", "-z", "--", path.as_str()]);
        let output = guest.output(&request).await?;
        let target = output.stdout.strip_suffix(b"\0").unwrap_or_default();
        let target = std::str::from_utf8(target).map_err(|_| {
            Error::invalid(format!(
                "{path} links to a name that is not UTF-8: use exec"
            ))
        })?;
        target.clone_into(&mut path);
    }
    Err(Error::invalid(format!(
        "cannot resolve {path}: too many links"
    )))
}

/// Replaces a file atomically: processes in the sandbox see the old file or the
/// new file, even if this server is killed.
async fn replace(guest: &dyn Guest, file: GuestFile) -> Result<()> {
    let no_rename = ["/proc/", "/sys/", "/dev/"];
    if no_rename.iter().any(|dir| file.path.starts_with(dir)) {
        return Ok(guest.write_file(&file).await?);
    }
    let dir = file.path.rfind('/').map_or("", |at| &file.path[..at]);
    let random = random_hex(4).map_err(Error::Random)?;
    let new = GuestFile {
        path: format!("{dir}/.pixels-{random}"),
        ..file
    };
    let written = async {
        guest.write_file(&new).await?;
        guest.rename(&new.path, &file.path).await
    };
    let Err(error) = written.await else {
        return Ok(());
    };
    // Report the first error, not an error of the cleanup.
    let _ = guest.remove_file(&new.path).await;
    Err(error.into())
}

/// Creates the parent directories, as the user of the sandbox if that user has
/// permission, else with the rights of `guest`.
async fn make_parents(guest: &dyn Guest, user: &User, path: &str) -> Result<()> {
    let parent = match path.rfind('/') {
        None | Some(0) => return Ok(()),
        Some(at) => &path[..at],
    };
    if guest.stat(parent).await.is_ok() {
        return Ok(());
    }
    let mut stderr = String::new();
    for owner in [user.ids, Ids::ROOT] {
        let mut request = ExecRequest::root(["mkdir", "-p", "--", parent]);
        request.owner = owner;
        let output = guest.output(&request).await?;
        if output.status.success() {
            return Ok(());
        }
        stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    Err(Error::invalid(format!(
        "cannot create directory {parent}: {stderr}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_and_dotdot_paths_are_rejected() {
        for good in ["/a", "/a/..b/c..", "/a b\n/é", "/-delete"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-delete", "/a/../b", "/..", "/a\0b"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
