//! Copies files one by one, for a pixel that is stopped or has no tar.
//!
//! This method is slower than an archive. Each file is buffered in memory, up
//! to a limit, and the mtime is the time of the transfer.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::confined_write::ConfinedDir;
use super::mtime::Mtime;
use super::pull::Pull;
use super::push::{ARCHIVE_ROOT, Placement, Push, blocking};
use super::temp_file::Attributes;
use super::unpack::{cannot_write, parts};
use super::walk::{Item, cannot_read, join};
use super::{Ownership, Report, TransferProgress};
use crate::model::{Error, FileKind, FileStat, Guest, GuestFile, Result, unless_cancelled};

/// Maximum size of a pulled file. The pixel controls the size.
const MAX_FILE: u64 = 1024 * 1024 * 1024;
/// Maximum number of entries that are waiting to be pulled.
const MAX_PENDING: usize = 1_000_000;

/// See [`push`](super::push()).
pub async fn push(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    placement: Placement,
    items: &[Item],
    progress: &TransferProgress,
) -> Result<Report> {
    let target = options.target.path.as_str();
    let target_is_dir = match guest.stat(target).await {
        Ok(stat) => stat.kind == FileKind::Directory,
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error),
    };
    let into = placement != Placement::Rename || target_is_dir;
    let mut report = Report::default();
    create_dirs(guest, if into { target } else { parent(target) }).await?;
    for item in items {
        let name = item.name.strip_prefix(ARCHIVE_ROOT).unwrap_or(&item.name);
        let name = std::str::from_utf8(name).map_err(|_| not_utf8(name))?;
        let path = if into {
            format!("{}{name}", target.trim_end_matches('/'))
        } else {
            // The target replaces the first part of the name.
            let below = name[1..].find('/').map_or("", |at| &name[1 + at..]);
            format!("{target}{below}")
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                let _ = guest.remove_file(&temporary_path(&path)).await;
                return Err(Error::Cancelled);
            }
            pushed = push_item(guest, item, &path, options.ownership, &mut report) => pushed?,
        }
        if item.meta.is_file() {
            progress.add_done(item.meta.len());
        }
    }
    Ok(report)
}

async fn push_item(
    guest: &dyn Guest,
    item: &Item,
    path: &str,
    ownership: Ownership,
    report: &mut Report,
) -> Result<()> {
    let meta = &item.meta;
    let failed = |e| cannot_read(&item.source, e);
    match item.kind() {
        FileKind::Other => report.skipped += 1,
        FileKind::Directory => guest.make_dir(path).await?,
        FileKind::Symlink => {
            let target = fs::read_link(&item.source).map_err(failed)?;
            let target = target.as_os_str().as_bytes();
            let target = std::str::from_utf8(target).map_err(|_| not_utf8(target))?;
            guest.remove_file(path).await?;
            guest.symlink(path, target).await?;
            report.files += 1;
        }
        FileKind::File => {
            let temporary = temporary_path(path);
            let file = GuestFile {
                path: temporary.clone(),
                content: fs::read(&item.source).map_err(failed)?,
                mode: meta.mode() & 0o7777,
                owner: ownership.owner_in_guest(meta),
            };
            report.bytes += file.content.len() as u64;
            report.files += 1;
            let written = async {
                guest.write_file(&file).await?;
                guest.rename(&temporary, path).await
            };
            if let Err(error) = written.await {
                let _ = guest.remove_file(&temporary).await;
                return Err(error);
            }
        }
    }
    Ok(())
}

fn temporary_path(path: &str) -> String {
    let pid = std::process::id();
    format!("{}/.pixels-{pid}", parent(path).trim_end_matches('/'))
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

/// Creates a directory and its missing parents.
async fn create_dirs(guest: &dyn Guest, path: &str) -> Result<()> {
    for (at, _) in path.match_indices('/').skip(1) {
        guest.make_dir(&path[..at]).await?;
    }
    if path != "/" {
        guest.make_dir(path).await?;
    }
    Ok(())
}

/// See [`pull`](super::pull()).
pub async fn pull(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Pull,
    root: &Path,
    top: Vec<u8>,
    progress: &TransferProgress,
) -> Result<Report> {
    let mut dir = ConfinedDir::open(root)?;
    let mut report = Report::default();
    let mut pending = vec![(options.source.path.clone(), top)];
    while let Some((path, name)) = pending.pop() {
        let stat = guest.stat(&path).await?;
        let parts = parts(&name);
        let attributes = attributes(&stat, options.ownership);
        let failed = |e| cannot_write(&name, e);
        match stat.kind {
            FileKind::Directory => {
                dir.create_dir(&parts).map_err(failed)?;
                if !parts.is_empty() {
                    // Entries below this directory are not written yet.
                    let mode = attributes.mode | 0o700;
                    let attributes = Attributes { mode, ..attributes };
                    dir.set_dir_attributes(&parts, attributes).map_err(failed)?;
                }
                for entry in guest.list_dir(&path).await? {
                    if matches!(entry.as_str(), "." | "..") {
                        continue;
                    }
                    // The pixel controls the names.
                    if entry.is_empty() || entry.contains(['/', '\0']) {
                        return Err(Error::Protocol(format!("invalid file name {entry:?}")));
                    }
                    let below = join(&name, entry.as_bytes());
                    pending.push((format!("{}/{entry}", path.trim_end_matches('/')), below));
                }
                if pending.len() > MAX_PENDING {
                    return Err(Error::Unsupported {
                        operation: format!("pulling {path} from a stopped pixel"),
                        reason: format!("there are more than {MAX_PENDING} entries").into(),
                    });
                }
            }
            FileKind::File => {
                let content = read_whole(guest, &path, &stat);
                let content = unless_cancelled(cancel, content).await?;
                let length = content.len() as u64;
                let mut temp = dir.create_file(&parts).map_err(failed)?;
                let write = move || {
                    temp.file.write_all(&content)?;
                    temp.persist(attributes)
                };
                blocking(move || Ok(write())).await?.map_err(failed)?;
                progress.add_done(length);
                report.files += 1;
                report.bytes += length;
            }
            FileKind::Symlink => {
                let target = guest.read_link(&path).await?;
                dir.create_symlink(&parts, target.as_bytes(), attributes)
                    .map_err(failed)?;
                report.files += 1;
            }
            FileKind::Other => report.skipped += 1,
        }
    }
    Ok(report)
}

async fn read_whole(guest: &dyn Guest, path: &str, stat: &FileStat) -> Result<Vec<u8>> {
    if stat.size <= MAX_FILE {
        let content = guest.read_file(path, MAX_FILE + 1).await?;
        if content.len() as u64 <= MAX_FILE {
            return Ok(content);
        }
    }
    Err(Error::TooLarge {
        what: format!("{path:?} in a pixel that is stopped or has no tar"),
        limit: MAX_FILE,
    })
}

fn attributes(stat: &FileStat, ownership: Ownership) -> Attributes {
    let keep = ownership == Ownership::Kept;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Attributes {
        mode: stat.mode & if keep { 0o7777 } else { 0o777 },
        mtime: Mtime::from_seconds(now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0))),
        owner: keep.then_some(stat.owner),
    }
}

fn not_utf8(name: &[u8]) -> Error {
    Error::Unsupported {
        operation: format!("transfer of {:?}", String::from_utf8_lossy(name)),
        reason: "a stopped pixel accepts only UTF-8 names".into(),
    }
}
