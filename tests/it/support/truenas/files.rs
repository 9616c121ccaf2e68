//! The file calls: as root of the host, through symlinks, and into a hidden
//! folder when the disk is not mounted. What would leave an instance's root
//! filesystem is noted and not done.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::answer::{Outcome, call, invalid};
use super::query::Query;
use super::schema::{self, Kind};
use super::{Inner, POOL};

/// The path of the disks as the server reports it, and the real path.
const SHOWN: &str = "/var/lib/incus/storage-pools/tank/containers";
const REAL: &str = "/var/lib/incus/storage-pools/default/containers";

pub fn root_of(instance: &str) -> PathBuf {
    Path::new(REAL).join(instance).join("rootfs")
}

impl Inner {
    /// The instance a path leads into, and the way from its folder on.
    fn inside<'a>(&self, path: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = path.strip_prefix(SHOWN)?.strip_prefix('/')?;
        let (instance, rest) = rest.split_once('/').unwrap_or((rest, ""));
        instance
            .starts_with(&self.prefix)
            .then_some((instance, rest))
    }

    fn is_mounted(&self, instance: &str) -> bool {
        let running = |found: Value| found["status"] == "Running";
        !self.hides_disks.load(Ordering::Relaxed)
            && self.incus_instance(instance).is_some_and(running)
    }

    pub fn stat(&self, path: &str) -> Outcome {
        let missing = || call(2, format!("Path {path} not found"));
        let (instance, rest) = self.inside(path).ok_or_else(missing)?;
        if self.incus_instance(instance).is_none() {
            return Err(missing());
        }
        let mounted = self.is_mounted(instance);
        if !mounted && !rest.is_empty() {
            return Err(missing());
        }
        let real = Path::new(REAL).join(instance);
        let target = real.join(rest);
        let found = std::fs::canonicalize(&target).map_err(|_| missing())?;
        let facts = std::fs::metadata(&found).map_err(|_| missing())?;
        let shown = match found.strip_prefix(REAL) {
            Ok(rest) => Path::new(SHOWN).join(rest),
            Err(_) => found,
        };
        let kind = match facts.is_dir() {
            true => "DIRECTORY",
            false => "FILE",
        };
        Ok(
            json!({"realpath": shown, "type": kind, "size": facts.len(), "allocation_size": 512,
            "mode": facts.mode(), "mount_id": 1, "uid": facts.uid(), "gid": facts.gid(),
            "atime": 1.0, "mtime": 1.0, "ctime": 1.0, "btime": 1.0, "dev": 1, "inode": 1,
            "nlink": 1, "acl": false, "is_mountpoint": rest.is_empty() && mounted,
            "is_ctldir": false, "attributes": [], "user": null, "group": null}),
        )
    }

    /// Entries as they are: links are not followed.
    pub fn listdir(&self, params: &[Value]) -> Outcome {
        schema::count(params, 1, 3)?;
        let path = schema::text(params, 0, "path")?;
        let query = Query::of(&params[1..])?;
        let missing = || call(2, format!("Directory {path} does not exist"));
        let (instance, rest) = self.inside(path).ok_or_else(missing)?;
        if !self.is_mounted(instance) {
            return Err(missing());
        }
        if query.options["select"].is_null() {
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
        query.answer(all.collect())
    }

    pub fn file_receive(&self, params: &[Value]) -> Outcome {
        schema::count(params, 2, 3)?;
        let path = schema::text(params, 0, "path")?;
        let content = decode(schema::text(params, 1, "content")?);
        let fields = [
            ("append", Kind::Bool, false),
            ("mode", Kind::MaybeInt, false),
            ("uid", Kind::Int, false),
            ("gid", Kind::Int, false),
        ];
        let options = schema::object(params.get(2), "options", &fields)?;
        let content = content.filter(|bytes| !bytes.is_empty());
        let content = content.ok_or_else(|| invalid("content", "Input should not be empty"))?;
        let Some((instance, rest)) = self.inside(path) else {
            self.wrong(format!("a file outside of every instance: {path}"));
            return Ok(json!(true));
        };
        if !self.is_mounted(instance) {
            self.wrong(format!(
                "a file for {instance}, which is not mounted: {rest}"
            ));
            let hidden = self.hidden.path().join(self.unique().to_string());
            std::fs::write(hidden, content).unwrap();
            return Ok(json!(true));
        }
        let root = root_of(instance);
        let steps = rest.strip_prefix("rootfs/").unwrap_or("..");
        let Some(target) = walk(&root, steps) else {
            self.wrong(format!("a path that leads out of {instance}: {rest}"));
            return Ok(json!(true));
        };
        let failed = |e: std::io::Error| call(14, e.to_string());
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        std::fs::write(&target, content).map_err(failed)?;
        if let Some(mode) = options["mode"].as_u64().filter(|mode| *mode != 0) {
            let mode = std::fs::Permissions::from_mode(u32::try_from(mode).unwrap());
            std::fs::set_permissions(&target, mode).map_err(failed)?;
        }
        let id = |key: &str| options[key].as_u64().and_then(|id| u32::try_from(id).ok());
        chown(&target, id("uid"), id("gid")).map_err(failed)?;
        Ok(json!(true))
    }
}

/// Where a path ends up on the host; `None` when that is outside of `root`.
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
                    // On the host a link from the root leads to the host's.
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

fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u32::from(c - b'A')),
        b'a'..=b'z' => Some(u32::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let digits: Vec<u32> = chunk.iter().copied().map_while(digit).collect();
        if chunk.len() != 4 || digits.len() < 2 {
            return None;
        }
        let word =
            digits.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - digits.len()));
        bytes.extend(&word.to_be_bytes()[1..digits.len()]);
    }
    Some(bytes)
}

#[test]
fn pool_and_path_belong_together() {
    assert!(SHOWN.contains(&format!("/{POOL}/")));
}

#[test]
fn base64_is_read_back() {
    assert_eq!(decode("Zm9vYg==").unwrap(), b"foob");
    assert_eq!(decode("Zm9vYmFy").unwrap(), b"foobar");
    assert!(decode("Zm9").is_none());
}
