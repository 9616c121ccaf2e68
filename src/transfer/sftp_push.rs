//! Pushes a large file into a running pixel by raw SFTP writes.
//!
//! This is the fastest method, because the server's file access processes many
//! chunks concurrently. `receive.sh` in the pixel prepares the file, moves the
//! complete file to its final name, and cleans up if this process dies.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::guest_script::{self, INPUT_CUT_OFF, UNSUPPORTED};
use super::mtime::Mtime;
use super::pack;
use super::push::{ARCHIVE_ROOT, Placement, Push, blocking, receive_request, until_cancelled};
use super::walk::{Item, below, cannot_read};
use super::{Report, TransferProgress, sparse};
use crate::model::{Error, FileKind, Guest, MAX_CHUNK, Result};

/// Minimum file size. Smaller files transfer faster in an archive.
const MIN_SIZE: u64 = 16 * 1024 * 1024;
/// Number of chunks to read ahead of the SFTP writes.
const READ_AHEAD: usize = 4;
/// Maximum length of lines between `receive.sh` and this process.
const LINE_BUFFER: usize = 256;

/// Sends one file. Returns `None` before changing anything if the file or the
/// pixel is unsuitable for this method. The caller then uses an archive.
pub async fn push(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    placement: Placement,
    item: &Item,
    progress: &Arc<TransferProgress>,
) -> Result<Option<Report>> {
    let Ok(name) = String::from_utf8(below(&item.name, ARCHIVE_ROOT)) else {
        return Ok(None);
    };
    let Some((file, meta)) = open_source(item.clone()).await? else {
        return Ok(None);
    };
    let (size, mtime) = (meta.len(), Mtime::from_metadata(&meta));
    let owner = options.ownership.owner_in_guest(&item.meta);
    let more = [
        format!("mode={:o}", item.meta.mode() & 0o7777),
        format!("mtime={}.{:09}", mtime.seconds, mtime.nanos),
        format!("fileowner={}:{}", owner.uid, owner.gid),
        format!("name={name}"),
    ];
    let request = receive_request(options, "sftp", placement, &more);

    let (to_script, stdin) = tokio::io::duplex(LINE_BUFFER);
    let (stdout, from_script) = tokio::io::duplex(LINE_BUFFER);
    let source = (file, size);
    let both = async {
        let script = guest_script::run(guest, &request, stdin, stdout);
        tokio::pin!(script);
        tokio::select! {
            biased;
            outcome = fill(guest, source, from_script, to_script, &options.id, progress) => {
                Ok((script.await?, outcome))
            }
            exit = &mut script => Ok((exit?, Ok(FillOutcome::ScriptExited))),
        }
    };
    let (exit, outcome) = match until_cancelled(cancel, progress, both).await {
        Ok(results) => results,
        Err(Error::WrongState { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match outcome? {
        FillOutcome::NotVisible => Ok(None),
        FillOutcome::WriteFailed(error) if exit.status == INPUT_CUT_OFF => Err(match error {
            // The error contains the path in the private directory.
            Error::Io { source, .. } => Error::io(
                format!("cannot write {:?} in the pixel", options.target.path),
                source,
            ),
            other => other,
        }),
        _ if exit.status == UNSUPPORTED => Ok(None),
        FillOutcome::Complete if exit.status == 0 => Ok(Some(Report {
            files: 1,
            bytes: size,
            notes: exit.stderr,
            ..Report::default()
        })),
        FillOutcome::ScriptExited if exit.status == 0 => Err(Error::Protocol(
            "the pixel's receive script exited before the file was sent".into(),
        )),
        _ => Err(exit.into_error(&options.target.path, "push")),
    }
}

/// Opens the file, or returns `None` for small files and files with holes.
async fn open_source(item: Item) -> Result<Option<(File, Metadata)>> {
    if !item.meta.is_file() || item.meta.len() < MIN_SIZE {
        return Ok(None);
    }
    blocking(move || {
        let open = || {
            let file = pack::open(&item.source)?;
            let meta = file.metadata()?;
            let fits = meta.is_file() && sparse::segments(&file, meta.len())?.is_none();
            Ok(fits.then_some((file, meta)))
        };
        open().map_err(|e| cannot_read(&item.source, e))
    })
    .await
}

enum FillOutcome {
    Complete,
    ScriptExited,
    /// The server's file access cannot see the prepared file.
    NotVisible,
    /// The write failed. The script was notified, and its stderr may explain the cause.
    WriteFailed(Error),
}

/// Waits for the path of the prepared file, writes the content, and reports the
/// result to the script.
async fn fill(
    guest: &dyn Guest,
    (file, size): (File, u64),
    from_script: DuplexStream,
    mut to_script: DuplexStream,
    id: &str,
    progress: &Arc<TransferProgress>,
) -> Result<FillOutcome> {
    // `stat` opens the SFTP session while the script starts.
    let (path, _) = tokio::join!(read_ready_path(from_script), guest.stat("/"));
    let Some(path) = path else {
        return Ok(FillOutcome::ScriptExited);
    };
    if !matches!(guest.stat(&path).await, Ok(found) if found.kind == FileKind::File) {
        return Ok(FillOutcome::NotVisible);
    }
    let (sender, content) = mpsc::channel(READ_AHEAD);
    let reading = {
        let progress = Arc::clone(progress);
        blocking(move || send_chunks(file, size, &progress, &sender))
    };
    let (read, written) = tokio::join!(reading, guest.write_chunks(&path, content));
    read?;
    let complete = match written {
        Ok(()) => guest.stat(&path).await.map(|found| found.size == size),
        Err(error) => Err(error),
    };
    let (word, outcome) = match complete {
        Ok(true) => (id, FillOutcome::Complete),
        Ok(false) => {
            return Err(Error::Protocol(
                "the file in the pixel has another size than was sent".into(),
            ));
        }
        Err(error) => ("failed", FillOutcome::WriteFailed(error)),
    };
    // The exit code shows if the script no longer reads.
    let _ = to_script.write_all(format!("{word}\n").as_bytes()).await;
    let _ = to_script.shutdown().await;
    Ok(outcome)
}

/// Reads the line `/proc/PID/cwd/content`. Returns `None` for other output,
/// because the pixel must not choose another path.
async fn read_ready_path(from_script: DuplexStream) -> Option<String> {
    let mut line = String::new();
    let mut reader = BufReader::new(from_script.take(64));
    reader.read_line(&mut line).await.ok()?;
    let process = line
        .strip_prefix("/proc/")?
        .strip_suffix("/cwd/content\n")?;
    process.parse::<u32>().ok()?;
    Some(line.trim_end().to_owned())
}

/// Sends the entire file in chunks. Fails if the file became shorter.
fn send_chunks(
    mut file: File,
    mut left: u64,
    progress: &TransferProgress,
    sender: &mpsc::Sender<Bytes>,
) -> Result<()> {
    while left > 0 {
        progress.check_cancelled()?;
        let length = left.min(MAX_CHUNK as u64);
        let mut chunk = Vec::with_capacity(MAX_CHUNK);
        let failed = |e| Error::io("cannot read the file to push", e);
        let got = (&mut file).take(length).read_to_end(&mut chunk);
        if (got.map_err(failed)? as u64) < length {
            return Err(failed(pack::became_shorter()));
        }
        if sender.blocking_send(chunk.into()).is_err() {
            // The receiver of the chunks failed and reports the cause.
            return Ok(());
        }
        progress.add_done(length);
        left -= length;
    }
    Ok(())
}
