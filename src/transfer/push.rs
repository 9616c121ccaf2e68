//! Pushes files and directories from this machine into a pixel.

use std::io::BufWriter;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};
use tokio_util::sync::CancellationToken;

use super::blocking_pipe::blocking_pipe;
use super::guest_script::{self, INPUT_CUT_OFF, UNSUPPORTED};
use super::walk::{Item, join, walk};
use super::{GuestPath, Ownership, Report, Rules, TransferProgress, pack, per_file, sftp_push};
use crate::model::{Error, ExecRequest, Guest, Ids, Reason, Result};

/// Time limit for the pixel's cleanup after a canceled transfer.
pub(super) const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);
const SCRIPT: &str = include_str!("guest/receive.sh");
/// Directory in the archive that contains the entries to transfer.
pub const ARCHIVE_ROOT: &[u8] = b"tree";
const STREAM_BUFFER: usize = 128 * 1024;

/// The sources, target and options of a push.
pub struct Push {
    /// Files and directories. `dir/.` means the contents of the directory.
    pub sources: Vec<PathBuf>,
    pub target: GuestPath,
    pub ownership: Ownership,
    /// The owner of new parent directories.
    pub owner: Ids,
    /// A unique id for this transfer.
    pub id: String,
}

/// The placement of pushed entries. See `receive.sh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The only entry becomes the target, or is placed in the target if the target
    /// is a directory.
    Rename,
    /// All entries are placed in the target.
    Into,
    /// The contents of the only source directory are merged into the target.
    Contents,
}

impl Placement {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rename => "rename",
            Self::Into => "into",
            Self::Contents => "contents",
        }
    }
}

/// Pushes files and directories. Merges a directory into an existing directory,
/// and replaces an existing file. [`super`] lists the methods.
///
/// After a failure or a cancellation, nothing has changed, except that
/// directories that existed before may contain some of the transferred files.
pub async fn push(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    progress: &Arc<TransferProgress>,
) -> Result<Report> {
    let (placement, items) = collect_items(options, progress).await?;
    if let [item] = &items[..]
        && let Some(report) =
            sftp_push::push(guest, cancel, options, placement, item, progress).await?
    {
        return Ok(report);
    }
    match push_archive(guest, cancel, options, placement, items.clone(), progress).await? {
        Some(report) => Ok(report),
        None => per_file::push(guest, cancel, options, placement, &items, progress).await,
    }
}

async fn collect_items(
    options: &Push,
    progress: &Arc<TransferProgress>,
) -> Result<(Placement, Vec<Item>)> {
    let sources = options.sources.clone();
    let target_is_dir = options.target.directory;
    let progress = Arc::clone(progress);
    blocking(move || {
        let placement = match &sources[..] {
            [source] if is_contents_form(source) => Placement::Contents,
            [_] if !target_is_dir => Placement::Rename,
            _ => Placement::Into,
        };
        let mut rules = Rules::default();
        let mut items = Vec::new();
        for source in &sources {
            if is_contents_form(source) {
                let all = walk(source, ARCHIVE_ROOT, &mut rules, &progress)?;
                let without_top = usize::from(placement != Placement::Contents);
                items.extend(all.into_iter().skip(without_top));
            } else {
                let name = join(ARCHIVE_ROOT, &name_of(source)?);
                items.extend(walk(source, &name, &mut rules, &progress)?);
            }
        }
        Ok((placement, items))
    })
    .await
}

/// Whether the path is `.` or `dir/.`, which means the contents of a directory.
fn is_contents_form(source: &Path) -> bool {
    let text = source.as_os_str().as_encoded_bytes();
    text == b"." || text.ends_with(b"/.")
}

/// Returns the last part of the path. `..` must be resolved first to have a name.
fn name_of(source: &Path) -> Result<Vec<u8>> {
    let name = source.file_name().map(ToOwned::to_owned);
    let resolved = || Some(source.canonicalize().ok()?.file_name()?.to_owned());
    let name = name.or_else(resolved).ok_or_else(|| {
        let source = source.display();
        let reason = Reason::from(format!("{source} has no name"));
        Error::Invalid(reason.with_hint(format!("to push its contents, use {source}/.")))
    })?;
    Ok(name.into_vec())
}

/// Sends the items as an archive. Returns `None` if the pixel cannot receive an
/// archive.
pub async fn push_archive(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    placement: Placement,
    items: Vec<Item>,
    progress: &Arc<TransferProgress>,
) -> Result<Option<Report>> {
    let request = receive_request(options, "tar", placement, &[]);
    let (writer, reader) = blocking_pipe();
    let writer = BufWriter::with_capacity(STREAM_BUFFER, writer);
    let packing = {
        let (progress, ownership) = (Arc::clone(progress), options.ownership);
        tokio::task::spawn_blocking(move || pack::pack(&items, ownership, &progress, writer))
    };
    let script = guest_script::run(guest, &request, reader, tokio::io::sink());
    let exit = match until_cancelled(cancel, progress, script).await {
        Ok(exit) => exit,
        Err(error) => {
            progress.cancel();
            return match error {
                Error::WrongState { .. } => Ok(None),
                error => Err(error),
            };
        }
    };
    if exit.status != 0 {
        progress.cancel();
    }
    let packed = packing.await.map_err(|e| Error::Protocol(e.to_string()))?;
    match (exit.status, packed) {
        (0, packed) => Ok(Some(Report {
            notes: exit.stderr,
            ..packed?
        })),
        (UNSUPPORTED, _) => Ok(None),
        // A packing error caused the end of input that the script reported.
        (INPUT_CUT_OFF, Err(error)) => Err(error),
        _ => Err(exit.into_error(&options.target.path, "push")),
    }
}

/// Returns the result of `script`. On cancellation, cancels `progress`, which
/// ends the script's input early, and then gives the script time to clean up.
pub(super) async fn until_cancelled<T>(
    cancel: &CancellationToken,
    progress: &TransferProgress,
    script: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::pin!(script);
    tokio::select! {
        biased;
        () = cancel.cancelled() => {
            progress.cancel();
            let _ = tokio::time::timeout(CLEANUP_TIMEOUT, script).await;
            Err(Error::Cancelled)
        }
        result = &mut script => result,
    }
}

/// Returns a request that runs `receive.sh` with these arguments.
pub(super) fn receive_request(
    options: &Push,
    format: &str,
    placement: Placement,
    more: &[String],
) -> ExecRequest {
    let fixed = [
        format!("dest={}", options.target.path),
        format!("format={format}"),
        format!("placement={}", placement.as_str()),
        format!("id={}", options.id),
        format!("owner={}:{}", options.owner.uid, options.owner.gid),
    ];
    let args: Vec<&str> = fixed.iter().chain(more).map(String::as_str).collect();
    guest_script::request(SCRIPT, &args)
}

/// Writes a file from a stream of unknown length. Ignores `options.sources`.
/// After a failure or a cancellation, an existing file is unchanged.
pub async fn write(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    mode: u32,
    input: impl AsyncRead + Send + Unpin + 'static,
    progress: &Arc<TransferProgress>,
) -> Result<Report> {
    if options.target.directory {
        return Err(Error::Invalid(
            "stdin can only be pushed to a file name, not to a directory".into(),
        ));
    }
    let counter = Arc::clone(progress);
    let end_mark = futures_util::stream::iter([Ok(bytes::Bytes::from(options.id.clone()))]);
    let content = ReaderStream::with_capacity(input, STREAM_BUFFER)
        .inspect(move |chunk| counter.add_done(chunk.as_ref().map_or(0, |c| c.len() as u64)))
        .chain(end_mark)
        .take_until(cancel.clone().cancelled_owned());
    let input = StreamReader::new(Box::pin(content));
    let mode = format!("mode={mode:o}");
    let request = receive_request(options, "stream", Placement::Rename, &[mode]);
    let script = guest_script::run(guest, &request, input, tokio::io::sink());
    let exit = until_cancelled(cancel, progress, script).await?;
    if exit.status != 0 {
        return Err(exit.into_error(&options.target.path, "push"));
    }
    Ok(Report {
        files: 1,
        bytes: progress.done(),
        ..Report::default()
    })
}

/// Runs `work`, which accesses files, on a separate thread.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Protocol(format!("a thread that accesses files failed: {e}")))?
}
