//! Implements `filesystem.*` as root of the host, following symlinks. Writes
//! outside the disk of a running instance are recorded as errors and skipped.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Inner;
use super::answer::{Outcome, args, call, invalid};
use super::query::Query;

/// Directory of all instance disks: as TrueNAS reports it, and on the host.
const SHOWN: &str = "/var/lib/incus/storage-pools/tank/containers";
const REAL: &str = "/var/lib/incus/storage-pools/default/containers";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Receive {
    mode: u32,
    uid: u32,
    gid: u32,
}

pub fn root_of(instance: &str) -> PathBuf {
    Path::new(REAL).join(instance).join("rootfs")
}

impl Inner {
    /// Splits a path into the instance name and the path inside its disk.
    fn inside<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = path.strip_prefix(SHOWN)?.strip_prefix('/')?;
        let (instance, rest) = rest.split_once('/').unwrap_or((rest, ""));
        instance
            .starts_with(&self.prefix)
            .then_some((instance, rest))
    }

    fn is_mounted(&self, instance: &str) -> bool {
        let running = |found: Value| found["status"] == "Running";
        !self.state.lock().unwrap().hides_disks
            && self.incus_instance(instance).is_some_and(running)
    }

    pub fn stat(&self, params: &[Value]) -> Outcome {
        let (path,): (String,) = args(params)?;
        let missing = || call(2, format!("Path {path} not found"));
        let (instance, rest) = self.inside(&path).ok_or_else(missing)?;
        if self.incus_instance(instance).is_none() {
            return Err(missing());
        }
        let mounted = self.is_mounted(instance);
        if !mounted && !rest.is_empty() {
            return Err(missing());
        }
        let target = Path::new(REAL).join(instance).join(rest);
        let found = std::fs::canonicalize(&target).map_err(|_| missing())?;
        let kind = match found.is_dir() {
            true => "DIRECTORY",
            false => "FILE",
        };
        let shown = match found.strip_prefix(REAL) {
            Ok(rest) => Path::new(SHOWN).join(rest),
            Err(_) => found,
        };
        Ok(json!({"realpath": shown, "type": kind, "acl": false,
            "is_mountpoint": rest.is_empty() && mounted}))
    }

    /// Lists a directory. Does not follow symlinks in this directory.
    pub fn listdir(&self, params: &[Value]) -> Outcome {
        let (path, filters, options) = args(params)?;
        let path: String = path;
        let query = Query { filters, options };
        let missing = || call(2, format!("Directory {path} does not exist"));
        let (instance, rest) = self.inside(&path).ok_or_else(missing)?;
        if !self.is_mounted(instance) {
            return Err(missing());
        }
        if query.options.select.is_empty() {
            self.wrong("ZFS attributes were requested on a file system without them".into());
        }
        let entries = std::fs::read_dir(Path::new(REAL).join(instance).join(rest));
        let all = entries.map_err(|_| missing())?.flatten().map(|entry| {
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_symlink() => "SYMLINK",
                Ok(kind) if kind.is_dir() => "DIRECTORY",
                _ => "FILE",
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            json!({"name": name, "path": format!("{path}/{name}"), "type": kind})
        });
        query.answer(all)
    }

    pub fn file_receive(&self, params: &[Value]) -> Outcome {
        let (path, content, options): (String, String, Receive) = args(params)?;
        let content = BASE64_STANDARD.decode(content).unwrap_or_default();
        if content.is_empty() {
            return Err(invalid("content", "Input should not be empty"));
        }
        let wrong = |what: String| {
            self.wrong(what);
            Ok(json!(true))
        };
        let Some((instance, rest)) = self.inside(&path) else {
            return wrong(format!("a file outside all instances: {path}"));
        };
        if !self.is_mounted(instance) {
            return wrong(format!("a file on a disk that is not mounted: {path}"));
        }
        let root = root_of(instance);
        let steps = rest.strip_prefix("rootfs/").unwrap_or("..");
        let Some(target) = walk(&root, steps) else {
            return wrong(format!("a path outside {instance}: {rest}"));
        };
        let write = || {
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&target, content)?;
            let mode = std::fs::Permissions::from_mode(options.mode);
            std::fs::set_permissions(&target, mode)?;
            chown(&target, Some(options.uid), Some(options.gid))
        };
        write().map_err(|e: std::io::Error| call(14, e.to_string()))?;
        Ok(json!(true))
    }
}

/// Resolves a path with its symlinks. `None` if the target is not below `root`.
fn walk(root: &Path, steps: &str) -> Option<PathBuf> {
    let mut at = root.to_owned();
    let mut left: Vec<String> = steps.split('/').rev().map(str::to_owned).collect();
    let mut followed = 0;
    while let Some(step) = left.pop() {
        if step == ".." {
            at.pop();
        } else if !step.is_empty() && step != "." {
            let next = at.join(&step);
            match std::fs::read_link(&next) {
                Err(_) => at = next,
                Ok(link) => {
                    followed += 1;
                    // An absolute symlink points outside the instance.
                    if link.is_absolute() || followed > 40 {
                        return None;
                    }
                    for part in link.components().rev() {
                        if let Component::Normal(_) | Component::ParentDir = part {
                            left.push(part.as_os_str().to_string_lossy().into_owned());
                        }
                    }
                }
            }
        }
        if !at.starts_with(root) {
            return None;
        }
    }
    (at != root).then_some(at)
}
