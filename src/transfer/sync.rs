//! Synchronizes two directories by transferring only the differences.
//!
//! Two entries are equal if they have the same kind and mode. Files must also have
//! the same size and mtime, and links the same target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::guest_listing::{EntryFacts, Listing, list, local_facts};
use super::pull::{receive_archive, send_request};
use super::push::{ARCHIVE_ROOT, Placement, Push, blocking, push_archive};
use super::unpack::UnpackOptions;
use super::walk::{self, Item, below, join};
use super::{GuestPath, Ownership, Report, Rules, TransferProgress, guest_script};
use crate::model::{Error, FileKind, Guest, Ids, Reason, Result, Subject, unless_cancelled};

/// Options for both directions of a sync.
pub struct Sync {
    pub local: PathBuf,
    pub guest: GuestPath,
    pub rules: Rules,
    /// Delete entries that exist only at the destination and are not ignored by the
    /// rules.
    pub delete: bool,
    /// Report the changes without changing anything.
    pub dry_run: bool,
    pub ownership: Ownership,
    /// The owner of new parent directories in a pixel.
    pub owner: Ids,
    /// A unique id for this transfer.
    pub id: String,
}

/// The changes of a sync. With [`Sync::dry_run`], the changes that a sync would
/// perform.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Changes {
    pub transferred: Vec<String>,
    pub removed: Vec<String>,
    pub bytes: u64,
    #[serde(skip)]
    pub report: Report,
}

/// Synchronizes the directory in the pixel with the local directory.
pub async fn sync_in(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Sync,
    progress: &Arc<TransferProgress>,
) -> Result<Changes> {
    // The source's ignore files also protect entries of the destination.
    let (mut rules, items) = local_items(options, options.rules.clone(), false).await?;
    rules.stop_reading_ignore_files();
    let remote = list(guest, &options.guest, &mut rules);
    let remote = unless_cancelled(cancel, remote).await?.unwrap_or_default();
    let local = local_listing(&items);
    let plan = Plan::new(&local, &remote, options.delete)?;
    let changes = plan.changes(&local);
    if options.dry_run {
        return Ok(changes);
    }
    if !plan.remove.is_empty() {
        let names = nul_separated(&plan.remove);
        unless_cancelled(cancel, remove_in_guest(guest, &options.guest.path, names)).await?;
    }
    if plan.send.is_empty() {
        return Ok(changes);
    }
    let items: Vec<Item> = items
        .into_iter()
        .filter(|item| plan.needs(&relative(item)))
        .collect();
    let files = items.iter().filter(|item| item.meta.is_file());
    progress.add_total(files.map(|item| item.meta.len()).sum());
    let push = Push {
        sources: Vec::new(),
        target: options.guest.clone(),
        ownership: options.ownership,
        owner: options.owner,
        id: options.id.clone(),
    };
    let placement = Placement::Contents;
    let report = push_archive(guest, cancel, &push, placement, items, progress).await?;
    let report = report.ok_or_else(no_archive)?;
    Ok(Changes { report, ..changes })
}

/// Synchronizes the local directory with the directory in the pixel. Fails with
/// [`Error::NotFound`] if the directory in the pixel is missing.
pub async fn sync_out(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Sync,
    progress: &Arc<TransferProgress>,
) -> Result<Changes> {
    let mut rules = options.rules.clone();
    let remote = list(guest, &options.guest, &mut rules);
    let path = options.guest.path.as_str();
    let mut remote = unless_cancelled(cancel, remote)
        .await?
        .ok_or_else(|| guest_script::not_found(path))?;
    // A sync does not transfer devices, sockets and pipes.
    remote.retain(|_, facts| facts.kind != FileKind::Other);
    rules.stop_reading_ignore_files();
    let (_, items) = local_items(options, rules, true).await?;
    let local = local_listing(&items);
    let plan = Plan::new(&remote, &local, options.delete)?;
    let changes = plan.changes(&remote);
    if options.dry_run {
        return Ok(changes);
    }
    let (top, removed) = (options.local.clone(), plan.remove.clone());
    blocking(move || removed.iter().try_for_each(|name| remove_local(&top, name))).await?;
    if plan.send.is_empty() {
        return Ok(changes);
    }
    progress.add_total(changes.bytes);
    let names: BTreeSet<Vec<u8>> = remote.keys().filter(|n| plan.needs(n)).cloned().collect();
    let names = std::io::Cursor::new(nul_separated(&names));
    let mtimes = remote.into_iter().map(|(name, facts)| (name, facts.mtime));
    let unpack = UnpackOptions {
        root: options.local.clone(),
        top: None,
        ownership: options.ownership,
        mtimes: mtimes.collect(),
    };
    let request = send_request(path, "names", "");
    let report = receive_archive(guest, cancel, path, &request, names, unpack, progress).await?;
    let report = report.ok_or_else(no_archive)?;
    Ok(Changes { report, ..changes })
}

fn no_archive() -> Error {
    Error::WrongState {
        subject: Subject::Other("the pixel".into()),
        state: "stopped, or has no tar".into(),
    }
}

/// The differences between two directories.
#[derive(Default)]
struct Plan {
    send: BTreeSet<Vec<u8>>,
    /// Entries to remove, without the entries below them.
    remove: BTreeSet<Vec<u8>>,
}

impl Plan {
    fn new(from: &Listing, to: &Listing, delete: bool) -> Result<Self> {
        let mut plan = Self::default();
        let is_dir = |facts: &EntryFacts| facts.kind == FileKind::Directory;
        for (path, facts) in from {
            let present = to.get(path);
            let equal = present.is_some_and(|present| is_equal(facts, present));
            if equal || facts.kind == FileKind::Other {
                continue;
            }
            plan.send.insert(path.clone());
            if let Some(present) = present
                && is_dir(facts) != is_dir(present)
            {
                if is_dir(present) && !delete {
                    let reason = Reason::from(format!(
                        "{:?} is a directory at the destination but not at the source",
                        String::from_utf8_lossy(path)
                    ));
                    let hint = "to replace the directory, pass --delete";
                    return Err(Error::Invalid(reason.with_hint(hint)));
                }
                plan.add_removal(path);
            }
        }
        if delete {
            for path in to.keys().filter(|path| !from.contains_key(*path)) {
                plan.add_removal(path);
            }
        }
        Ok(plan)
    }

    /// Adds an entry to remove. Call this method for parents before their entries.
    fn add_removal(&mut self, path: &[u8]) {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut parents = ends.map(|(end, _)| &path[..end]);
        if !parents.any(|parent| self.remove.contains(parent)) {
            self.remove.insert(path.to_owned());
        }
    }

    /// Whether to transfer an entry: the entry differs, or is a parent of an entry
    /// that differs.
    fn needs(&self, path: &[u8]) -> bool {
        if path.is_empty() || self.send.contains(path) {
            return true;
        }
        let prefix = [path, b"/"].concat();
        let mut after = self.send.range(prefix.clone()..);
        after.next().is_some_and(|next| next.starts_with(&prefix))
    }

    fn changes(&self, from: &Listing) -> Changes {
        let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
        let size = |path: &Vec<u8>| match from.get(path) {
            Some(facts) if facts.kind == FileKind::File => facts.size,
            _ => 0,
        };
        Changes {
            transferred: self.send.iter().map(text).collect(),
            removed: self.remove.iter().map(text).collect(),
            bytes: self.send.iter().map(size).sum(),
            report: Report::default(),
        }
    }
}

fn is_equal(a: &EntryFacts, b: &EntryFacts) -> bool {
    a.kind == b.kind
        && match a.kind {
            FileKind::File => (a.mode, a.size) == (b.mode, b.size) && a.mtime.matches(b.mtime),
            FileKind::Directory => a.mode == b.mode,
            FileKind::Symlink => a.target == b.target,
            FileKind::Other => true,
        }
}

/// Returns the entries of the local directory, and the rules with the ignore
/// files. Empty if the directory is missing and `may_be_missing` is true.
async fn local_items(
    options: &Sync,
    mut rules: Rules,
    may_be_missing: bool,
) -> Result<(Rules, Vec<Item>)> {
    let top = options.local.clone();
    blocking(move || {
        // Not all entries are transferred, so the progress must not count their sizes.
        let sizes = TransferProgress::default();
        match walk::walk(&top, ARCHIVE_ROOT, &mut rules, &sizes) {
            Err(error) if may_be_missing && error.is_not_found() => Ok((rules, Vec::new())),
            Ok(items) if items.first().is_some_and(|item| !item.meta.is_dir()) => Err(
                Error::Invalid(format!("cannot sync {}: not a directory", top.display()).into()),
            ),
            outcome => Ok((rules, outcome?)),
        }
    })
    .await
}

/// Returns the entries below the top directory.
fn local_listing(items: &[Item]) -> Listing {
    let entries = items.iter().map(|item| (relative(item), local_facts(item)));
    entries.filter(|(path, _)| !path.is_empty()).collect()
}

/// Returns the path relative to the top directory.
fn relative(item: &Item) -> Vec<u8> {
    below(&item.name, ARCHIVE_ROOT)
}

fn nul_separated(names: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    let with_nul = |name: &Vec<u8>| [&join(b".", name)[..], b"\0"].concat();
    names.iter().flat_map(with_nul).collect()
}

fn remove_local(top: &Path, name: &[u8]) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = top.join(std::ffi::OsStr::from_bytes(name));
    let failed = |e| Error::io(format!("cannot delete {}", path.display()), e);
    let meta = fs::symlink_metadata(&path).map_err(failed)?;
    if meta.is_dir() {
        fs::remove_dir_all(&path).map_err(failed)
    } else {
        fs::remove_file(&path).map_err(failed)
    }
}

async fn remove_in_guest(guest: &dyn Guest, dir: &str, names: Vec<u8>) -> Result<()> {
    let request = guest_script::request(include_str!("guest/remove.sh"), &[dir]);
    let names = std::io::Cursor::new(names);
    let exit = guest_script::run(guest, &request, names, tokio::io::sink()).await?;
    if exit.status == 0 {
        return Ok(());
    }
    Err(exit.into_error(dir, "sync"))
}

#[cfg(test)]
mod tests {
    use super::super::mtime::Mtime;
    use super::*;

    fn listing(entries: &[(&str, FileKind, u64)]) -> Listing {
        let facts = |&(path, kind, size): &(&str, FileKind, u64)| {
            let facts = EntryFacts {
                kind,
                mode: 0o644,
                size,
                mtime: Mtime::from_seconds(1),
                target: Vec::new(),
            };
            (path.as_bytes().to_owned(), facts)
        };
        entries.iter().map(facts).collect()
    }

    fn texts(paths: &BTreeSet<Vec<u8>>) -> Vec<&str> {
        let paths = paths.iter();
        paths.map(|p| std::str::from_utf8(p).unwrap()).collect()
    }

    #[test]
    fn plan_transfers_only_differences() {
        use FileKind::{Directory, File, Symlink};
        let from = listing(&[
            ("a", Directory, 0),
            ("a/same", File, 1),
            ("a/changed", File, 2),
            ("new", File, 1),
            ("link", Symlink, 0),
            ("was-link", Directory, 0),
            ("was-link/x", File, 1),
        ]);
        let to = listing(&[
            ("a", Directory, 0),
            ("a/same", File, 1),
            ("a/changed", File, 1),
            ("link", Symlink, 0),
            ("old", Directory, 0),
            ("old/x", File, 1),
            ("was-link", Symlink, 0),
        ]);
        let plan = Plan::new(&from, &to, false).unwrap();
        assert_eq!(
            texts(&plan.send),
            ["a/changed", "new", "was-link", "was-link/x"]
        );
        assert_eq!(texts(&plan.remove), ["was-link"]);
        assert!(plan.needs(b"a") && plan.needs(b"") && !plan.needs(b"a/same"));
        let plan = Plan::new(&from, &to, true).unwrap();
        assert_eq!(texts(&plan.remove), ["old", "was-link"]);
        let blocked = listing(&[("new", Directory, 0)]);
        assert!(Plan::new(&from, &blocked, false).is_err());
        assert_eq!(
            texts(&Plan::new(&from, &blocked, true).unwrap().remove),
            ["new"]
        );
    }
}
