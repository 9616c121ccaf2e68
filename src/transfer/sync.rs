//! One folder made like another, by transferring what differs: entries are
//! the same when kind, size, mode and time are, or the target of a link.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::guest_listing::{Facts, Kind, Listing, facts, list};
use super::pull::{Receive, receive};
use super::push::{Placement, Push, TREE, blocking, send};
use super::unpack::{OwnerMapping, UnpackTarget};
use super::walk::{Item, joined, os, walk};
use super::{GuestPath, Ownership, Report, Rules, TransferProgress, explain};
use crate::model::{
    Error, ExecIo, ExecRequest, Guest, HeadBuffer, Ids, Result, Subject, unless_cancelled,
};

/// What both directions have in common.
pub struct Sync {
    pub local: PathBuf,
    pub guest: GuestPath,
    pub rules: Rules,
    /// Remove what only the destination has, unless the rules leave it out.
    pub delete: bool,
    /// Change nothing.
    pub dry_run: bool,
    pub ownership: Ownership,
    /// Of folders made on the way in a pixel.
    pub owner: Ids,
    pub id: String,
}

/// What a sync changed, or would.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Changes {
    pub transferred: Vec<String>,
    pub removed: Vec<String>,
    pub bytes: u64,
    #[serde(skip)]
    pub report: Report,
}

/// Makes the pixel's folder like the local one.
pub async fn sync_in(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Sync,
    meter: &Arc<TransferProgress>,
) -> Result<Changes> {
    let here = here(options, &options.rules, false).await?;
    let mut rules = options.rules.clone();
    learn(&mut rules, &here)?;
    rules.settle();
    let asked = list(guest, &options.guest, &mut rules);
    let there = unless_cancelled(cancel, asked).await?.unwrap_or_default();
    let ours = listing(&here);
    let plan = Plan::new(&ours, &there, options.delete)?;
    let changes = plan.changes(&ours);
    if options.dry_run {
        return Ok(changes);
    }
    if !plan.remove.is_empty() {
        let names = nul_ended(&plan.remove);
        unless_cancelled(cancel, remove(guest, &options.guest.path, names)).await?;
    }
    if plan.send.is_empty() {
        return Ok(changes);
    }
    let items: Vec<Item> = here
        .into_iter()
        .filter(|item| plan.needs(&strip(item)))
        .collect();
    let bytes = items.iter().filter(|item| item.meta.is_file());
    meter.expect(bytes.map(|item| item.meta.len()).sum());
    let push = Push {
        sources: Vec::new(),
        target: options.guest.clone(),
        ownership: options.ownership,
        owner: options.owner,
        id: options.id.clone(),
    };
    let sent = send(guest, cancel, &push, Placement::Contents, items, meter).await?;
    let report = sent.ok_or_else(|| Error::WrongState {
        subject: Subject::Other("the pixel".into()),
        state: "stopped, or has no tar".into(),
    })?;
    Ok(Changes { report, ..changes })
}

/// Makes the local folder like the pixel's.
pub async fn sync_out(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Sync,
    meter: &Arc<TransferProgress>,
) -> Result<Changes> {
    let mut rules = options.rules.clone();
    let asked = list(guest, &options.guest, &mut rules);
    let there = unless_cancelled(cancel, asked).await?;
    let missing = || {
        Error::NotFound(Subject::Other(format!(
            "{:?} in the pixel",
            options.guest.path
        )))
    };
    let mut there = there.ok_or_else(missing)?;
    // Devices and the like stay where they are.
    there.retain(|_, facts| facts.kind != Kind::Other);
    rules.settle();
    let here = here(options, &rules, true).await?;
    let ours = listing(&here);
    let plan = Plan::new(&there, &ours, options.delete)?;
    let changes = plan.changes(&there);
    if options.dry_run {
        return Ok(changes);
    }
    let (top, gone) = (options.local.clone(), plan.remove.clone());
    blocking(move || gone.iter().try_for_each(|name| remove_here(&top, name))).await?;
    if plan.send.is_empty() {
        return Ok(changes);
    }
    meter.expect(changes.bytes);
    let names: BTreeSet<Vec<u8>> = there.keys().filter(|n| plan.needs(n)).cloned().collect();
    let path = options.guest.path.as_str();
    let request = ExecRequest::root(["/bin/sh", "-c", super::pull::SCRIPT, "send", path, "names"]);
    let job = Receive {
        root: options.local.clone(),
        arrival: UnpackTarget {
            naming: OwnerMapping::Kept,
            ownership: options.ownership,
            times: there
                .into_iter()
                .map(|(n, facts)| (n, facts.modified))
                .collect(),
        },
        path: path.to_owned(),
    };
    let names = std::io::Cursor::new(nul_ended(&names));
    let received = receive(guest, cancel, &request, names, job, meter).await?;
    let report = received.ok_or_else(|| Error::WrongState {
        subject: Subject::Other("the pixel".into()),
        state: "stopped, or has no tar".into(),
    })?;
    Ok(Changes { report, ..changes })
}

/// What has to happen.
struct Plan {
    send: BTreeSet<Vec<u8>>,
    /// The topmost of what goes: what is below goes with it.
    remove: BTreeSet<Vec<u8>>,
}

impl Plan {
    fn new(from: &Listing, to: &Listing, delete: bool) -> Result<Self> {
        let mut plan = Self {
            send: BTreeSet::new(),
            remove: BTreeSet::new(),
        };
        for (path, facts) in from.iter().filter(|(_, facts)| facts.kind != Kind::Other) {
            let Some(present) = to.get(path) else {
                plan.send.insert(path.clone());
                continue;
            };
            if same(facts, present) {
                continue;
            }
            plan.send.insert(path.clone());
            let folder = |facts: &Facts| facts.kind == Kind::Folder;
            if folder(facts) != folder(present) {
                if folder(present) && !delete {
                    return Err(Error::Invalid(
                        format!(
                            "{:?} is a folder at the destination and none at the source: --delete \
                         lets it go",
                            String::from_utf8_lossy(path)
                        )
                        .into(),
                    ));
                }
                plan.drop(path);
            }
        }
        if delete {
            for path in to.keys().filter(|path| !from.contains_key(*path)) {
                plan.drop(path);
            }
        }
        Ok(plan)
    }

    fn drop(&mut self, path: &[u8]) {
        if !ancestors(path).any(|above| self.remove.contains(above)) {
            self.remove.insert(path.to_owned());
        }
    }

    /// Whether an entry travels: because it differs, or because something in
    /// it does and it carries it.
    fn needs(&self, path: &[u8]) -> bool {
        if path.is_empty() || self.send.contains(path) {
            return true;
        }
        let inside = [path, b"/"].concat();
        let mut after = self.send.range(inside.clone()..);
        after.next().is_some_and(|next| next.starts_with(&inside))
    }

    fn changes(&self, from: &Listing) -> Changes {
        let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
        let size = |path: &Vec<u8>| match from.get(path) {
            Some(facts) if facts.kind == Kind::File => facts.size,
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

fn same(a: &Facts, b: &Facts) -> bool {
    a.kind == b.kind
        && match a.kind {
            Kind::File => (a.mode, a.size) == (b.mode, b.size) && a.modified.agrees(b.modified),
            Kind::Folder => a.mode == b.mode,
            Kind::Link => a.target == b.target,
            Kind::Other => true,
        }
}

fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.map(|(end, _)| &path[..end])
}

/// The local folder; an absent one is empty where that is allowed.
async fn here(options: &Sync, rules: &Rules, may_be_absent: bool) -> Result<Vec<Item>> {
    let (top, rules) = (options.local.clone(), rules.clone());
    blocking(move || {
        // What there is is not yet what is transferred.
        match walk(&top, TREE, &rules, &TransferProgress::default()) {
            Err(error) if may_be_absent && error.is_not_found() => Ok(Vec::new()),
            Ok(items) if items.first().is_some_and(|item| !item.meta.is_dir()) => {
                Err(Error::Invalid(
                    format!("sync is for folders, and {} is none", top.display()).into(),
                ))
            }
            outcome => outcome,
        }
    })
    .await
}

/// The ignore files of the source hold for the destination too: what they
/// leave out is not removed there.
fn learn(rules: &mut Rules, items: &[Item]) -> Result<()> {
    if !rules.reads_ignore_files() {
        return Ok(());
    }
    for item in items {
        let path = strip(item);
        let name = super::ignore_rules::IGNORE_FILE.as_bytes();
        if let Some(above) = path.strip_suffix(name)
            && (above.is_empty() || above.ends_with(b"/"))
        {
            let above = above.strip_suffix(b"/").unwrap_or(above);
            super::walk::learn(rules, above, &item.source)?;
        }
    }
    Ok(())
}

/// What is below the top.
fn listing(items: &[Item]) -> Listing {
    let below = items.iter().map(|item| (strip(item), facts(item)));
    below.filter(|(path, _)| !path.is_empty()).collect()
}

/// The path below the top.
fn strip(item: &Item) -> Vec<u8> {
    let rest = item.name.strip_prefix(TREE).unwrap_or(&item.name);
    rest.strip_prefix(b"/").unwrap_or(rest).to_owned()
}

fn nul_ended(names: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    let named = |name: &Vec<u8>| [&joined(b".", name)[..], b"\0"].concat();
    names.iter().flat_map(named).collect()
}

fn remove_here(top: &std::path::Path, name: &[u8]) -> Result<()> {
    let path = top.join(os(name));
    let failed = |e| Error::io(format!("removing {}", path.display()), e);
    let meta = fs::symlink_metadata(&path).map_err(failed)?;
    if meta.is_dir() {
        fs::remove_dir_all(&path).map_err(failed)
    } else {
        fs::remove_file(&path).map_err(failed)
    }
}

async fn remove(guest: &dyn Guest, folder: &str, names: Vec<u8>) -> Result<()> {
    let script = include_str!("guest/remove.sh");
    let request = ExecRequest::root(["/bin/sh", "-c", script, "remove", folder]);
    let said = HeadBuffer::default();
    let (_steer, control) = mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(std::io::Cursor::new(names)),
        stdout: Box::new(tokio::io::sink()),
        stderr: Box::new(said.clone()),
        control,
    };
    let status = guest.exec(&request, io).await?;
    if status.success() {
        return Ok(());
    }
    Err(explain(status.0, &said.take(), folder, "sync"))
}

#[cfg(test)]
mod tests {
    use super::super::mtime::Mtime;
    use super::*;

    fn entry(kind: Kind, size: u64) -> Facts {
        Facts {
            kind,
            mode: 0o644,
            size,
            modified: Mtime::seconds(1),
            target: Vec::new(),
        }
    }

    fn made_up(entries: &[(&str, Kind, u64)]) -> Listing {
        let one = |(path, kind, size): &(&str, Kind, u64)| {
            (path.as_bytes().to_owned(), entry(*kind, *size))
        };
        entries.iter().map(one).collect()
    }

    fn texts(of: &BTreeSet<Vec<u8>>) -> Vec<&str> {
        of.iter().map(|t| std::str::from_utf8(t).unwrap()).collect()
    }

    #[test]
    fn only_differences_travel() {
        use Kind::{File, Folder, Link};
        let from = made_up(&[
            ("a", Folder, 0),
            ("a/same", File, 1),
            ("a/changed", File, 2),
            ("new", File, 1),
            ("link", Link, 0),
            ("was-link", Folder, 0),
            ("was-link/x", File, 1),
        ]);
        let to = made_up(&[
            ("a", Folder, 0),
            ("a/same", File, 1),
            ("a/changed", File, 1),
            ("link", Link, 0),
            ("old", Folder, 0),
            ("old/x", File, 1),
            ("was-link", Link, 0),
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
        let blocked = made_up(&[("new", Folder, 0)]);
        assert!(Plan::new(&from, &blocked, false).is_err());
        assert_eq!(
            texts(&Plan::new(&from, &blocked, true).unwrap().remove),
            ["new"]
        );
    }
}
