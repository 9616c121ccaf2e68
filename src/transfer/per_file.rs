//! File by file, for a pixel that is stopped or has no tar: slower, and times
//! are those of the transfer. Files pass through memory, up to a size.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::confined_write::{Attributes, Tree};
use super::mtime::Mtime;
use super::pull::Pull;
use super::push::{Push, TREE, blocking};
use super::unpack::{OwnerMapping, parts};
use super::walk::Item;
use super::{Ownership, Report, TransferProgress};
use crate::model::{Error, FileKind, FileStat, Guest, GuestFile, Result};

/// Of one file that is pulled; its length is what the pixel says it is.
const LARGEST: u64 = 1024 * 1024 * 1024;
/// Of entries that are known and not yet pulled.
const WAITING: usize = 1_000_000;

/// See [`super::push`]. `contents`: the one source's, into the target itself.
pub async fn push(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    items: &[Item],
    contents: bool,
    meter: &Arc<TransferProgress>,
) -> Result<Report> {
    let single = !contents && options.sources.len() == 1 && !options.target.directory;
    let exists = optional(guest.stat(&options.target.path).await)?;
    let into = !single || exists.is_some_and(|found| found.kind == FileKind::Directory);
    let mut report = Report::default();
    let above = match into {
        true => options.target.path.as_str(),
        false => parent(&options.target.path),
    };
    make_parents(guest, above).await?;
    for item in items {
        let name = item.name.strip_prefix(TREE).unwrap_or(&item.name);
        let name = std::str::from_utf8(name).map_err(|_| no_text(name))?;
        let path = if into {
            format!("{}{name}", options.target.path.trim_end_matches('/'))
        } else {
            // The one entry has the target's name.
            let below = name[1..].find('/').map_or("", |at| &name[1 + at..]);
            format!("{}{below}", options.target.path)
        };
        let put = put(guest, item, &path, options.ownership, &mut report);
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                let _ = guest.remove_file(&temporary(&path)).await;
                return Err(Error::Cancelled);
            }
            done = put => done?,
        }
        if item.meta.is_file() {
            meter.add(item.meta.len());
        }
    }
    Ok(report)
}

async fn put(
    guest: &dyn Guest,
    item: &Item,
    path: &str,
    ownership: Ownership,
    report: &mut Report,
) -> Result<()> {
    let meta = &item.meta;
    if item.is_special() {
        report.skipped += 1;
    } else if meta.is_dir() {
        guest.make_dir(path).await?;
    } else if meta.is_symlink() {
        let failed = |e| Error::io(format!("reading {}", item.source.display()), e);
        let target = fs::read_link(&item.source).map_err(failed)?;
        let target = target
            .to_str()
            .ok_or_else(|| no_text(target.as_os_str().as_bytes()))?;
        guest.remove_file(path).await?;
        guest.symlink(path, target).await?;
        report.files += 1;
    } else {
        let failed = |e| Error::io(format!("reading {}", item.source.display()), e);
        let temporary = temporary(path);
        let file = GuestFile {
            path: temporary.clone(),
            content: fs::read(&item.source).map_err(failed)?,
            mode: meta.mode() & 0o7777,
            owner: ownership.of(meta),
        };
        report.bytes += file.content.len() as u64;
        report.files += 1;
        let moved = async {
            guest.write_file(&file).await?;
            guest.rename(&temporary, path).await
        };
        if let Err(error) = moved.await {
            let _ = guest.remove_file(&temporary).await;
            return Err(error);
        }
    }
    Ok(())
}

fn temporary(path: &str) -> String {
    let own = std::process::id();
    format!("{}/.pixels-{own}", parent(path).trim_end_matches('/'))
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

async fn make_parents(guest: &dyn Guest, path: &str) -> Result<()> {
    for (at, _) in path.match_indices('/').skip(1) {
        guest.make_dir(&path[..at]).await?;
    }
    if path != "/" {
        guest.make_dir(path).await?;
    }
    Ok(())
}

/// See [`super::pull`].
pub async fn pull(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Pull,
    (root, naming): &(PathBuf, OwnerMapping),
    meter: &Arc<TransferProgress>,
) -> Result<Report> {
    let failed = |e| Error::io(format!("writing to {}", root.display()), e);
    fs::create_dir_all(root).map_err(failed)?;
    let mut tree = Tree::open(root).map_err(failed)?;
    let top = match naming {
        OwnerMapping::Kept => Vec::new(),
        OwnerMapping::Top(name) => name.clone(),
    };
    let mut report = Report::default();
    let mut waiting = vec![(options.source.path.clone(), top)];
    while let Some((path, name)) = waiting.pop() {
        let stat = guest.stat(&path).await?;
        let steps = parts(&name);
        let failed = |e| Error::io(format!("writing {}", String::from_utf8_lossy(&name)), e);
        match stat.kind {
            FileKind::Directory => {
                tree.folder(&steps).map_err(failed)?;
                if !steps.is_empty() {
                    let attributes = attributes(&stat, options.ownership, 0o700);
                    tree.finish_folder(&steps, attributes).map_err(failed)?;
                }
                for entry in guest.list_dir(&path).await? {
                    if matches!(entry.as_str(), "." | "..") {
                        continue;
                    }
                    // The pixel says what its files are called: no way out by that.
                    if entry.is_empty() || entry.contains(['/', '\0']) {
                        return Err(Error::Protocol(format!("a file called {entry:?}")));
                    }
                    let below = super::walk::joined(&name, entry.as_bytes());
                    waiting.push((format!("{}/{entry}", path.trim_end_matches('/')), below));
                }
                if waiting.len() > WAITING {
                    return Err(Error::Unsupported {
                        operation: format!("pulling {path} while the pixel is stopped"),
                        reason: format!("there are more than {WAITING} entries side by side")
                            .into(),
                    });
                }
            }
            FileKind::File => {
                let content = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(Error::Cancelled),
                    content = whole(guest, &path, &stat) => content?,
                };
                let length = content.len() as u64;
                let mut unfinished = tree.file(&steps).map_err(failed)?;
                let attributes = attributes(&stat, options.ownership, 0);
                let written = blocking(move || {
                    let doing = |e| Error::io("writing a file", e);
                    unfinished.file.write_all(&content).map_err(doing)?;
                    unfinished.finish(attributes).map_err(doing)
                });
                written.await?;
                meter.add(length);
                report.files += 1;
                report.bytes += length;
            }
            FileKind::Symlink => {
                let target = guest.read_link(&path).await?;
                let attributes = attributes(&stat, options.ownership, 0);
                let made = tree.link(&steps, target.as_bytes(), attributes);
                made.map_err(failed)?;
                report.files += 1;
            }
            FileKind::Other => report.skipped += 1,
        }
    }
    Ok(report)
}

async fn whole(guest: &dyn Guest, path: &str, stat: &FileStat) -> Result<Vec<u8>> {
    if stat.size <= LARGEST {
        let content = guest.read_file(path, LARGEST + 1).await?;
        if content.len() as u64 <= LARGEST {
            return Ok(content);
        }
    }
    Err(Error::TooLarge {
        what: format!("{path:?}, for a pixel that is stopped or has no tar,"),
        limit: LARGEST,
    })
}

fn attributes(stat: &FileStat, ownership: Ownership, least: u32) -> Attributes {
    let kept = ownership == Ownership::Kept;
    let bits = if kept { 0o7777 } else { 0o777 };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Attributes {
        mode: (stat.mode & bits) | least,
        modified: Mtime::seconds(now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0))),
        owner: kept.then_some(stat.owner),
    }
}

fn optional(outcome: Result<FileStat>) -> Result<Option<FileStat>> {
    match outcome {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn no_text(name: &[u8]) -> Error {
    Error::Unsupported {
        operation: format!("a file called {:?}", String::from_utf8_lossy(name)),
        reason: "only names that are UTF-8 can be transferred while the pixel is stopped".into(),
    }
}
