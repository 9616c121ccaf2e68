//! Pulls files and directories from a pixel onto this machine.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::blocking_pipe::{BlockingPipe, blocking_pipe};
use super::guest_script::{self, IS_A_DIRECTORY, UNSUPPORTED};
use super::push::blocking;
use super::unpack::{UnpackOptions, unpack};
use super::{GuestPath, Ownership, Report, TransferProgress, per_file};
use crate::model::{Error, ExecRequest, Guest, Reason, Result, unless_cancelled};

const SEND: &str = include_str!("guest/send.sh");
const READ: &str = include_str!("guest/read.sh");
/// Maximum length of the line with the size before the archive.
const SIZE_LINE: u64 = 32;
/// Exit code of tar if a file changed during the read.
const TAR_FILE_CHANGED: i32 = 1;

/// The source, target and options of a pull.
pub struct Pull {
    pub source: GuestPath,
    pub target: PathBuf,
    /// Whether the target is a directory, which is created if missing.
    pub into: bool,
    pub ownership: Ownership,
    /// Whether to measure the size first, to show progress.
    pub sized: bool,
}

/// Pulls a file or directory. Merges a directory into an existing directory,
/// and replaces an existing file. Never writes outside the target, even if the
/// pixel is hostile. After a failure or a cancellation, complete files remain.
pub async fn pull(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Pull,
    progress: &Arc<TransferProgress>,
) -> Result<Report> {
    let (root, top) = destination(options)?;
    let mode = if top.is_none() { "contents" } else { "whole" };
    let size = if options.sized { "size" } else { "" };
    let path = options.source.path.as_str();
    let request = send_request(path, mode, size);
    let unpack = UnpackOptions {
        root: root.clone(),
        top: top.clone(),
        ownership: options.ownership,
        mtimes: HashMap::new(),
    };
    let no_input = tokio::io::empty();
    match receive_archive(guest, cancel, path, &request, no_input, unpack, progress).await? {
        Some(report) => Ok(report),
        None => {
            let top = top.unwrap_or_default();
            per_file::pull(guest, cancel, options, &root, top, progress).await
        }
    }
}

/// Returns a request that runs `send.sh` with these arguments.
pub fn send_request(path: &str, mode: &str, size: &str) -> ExecRequest {
    guest_script::request(SEND, &[path, mode, size])
}

/// Returns the directory to write to, and the source's name in this directory.
/// `None` means that the source's contents go into the directory.
fn destination(options: &Pull) -> Result<(PathBuf, Option<Vec<u8>>)> {
    let target = &options.target;
    if options.source.contents || options.source.path == "/" {
        return Ok((target.clone(), None));
    }
    if target.is_dir() || options.into {
        let name = options.source.name().as_bytes().to_owned();
        return Ok((target.clone(), Some(name)));
    }
    let name = target
        .file_name()
        .ok_or_else(|| Error::Invalid(format!("{} is not a file name", target.display()).into()))?;
    let root = match target.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((root, Some(name.as_encoded_bytes().to_owned())))
}

/// Runs `send.sh` and unpacks the archive. Returns `None` before any write if
/// the pixel cannot send an archive. `path` in the pixel is for messages.
pub async fn receive_archive(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    path: &str,
    request: &ExecRequest,
    stdin: impl AsyncRead + Send + Unpin + 'static,
    options: UnpackOptions,
    progress: &Arc<TransferProgress>,
) -> Result<Option<Report>> {
    let (reader, stdout) = blocking_pipe();
    let writing = {
        let progress = Arc::clone(progress);
        blocking(move || Ok(write_archive(reader, &options, &progress)))
    };
    // When this future ends, `stdout` is dropped and the archive's reader sees end
    // of file.
    let script = async {
        let script = guest_script::run(guest, request, stdin, stdout);
        let exit = unless_cancelled(cancel, script).await;
        if !matches!(&exit, Ok(exit) if exit.status <= TAR_FILE_CHANGED) {
            // An archive that was cut off between two files looks complete.
            progress.cancel();
        }
        exit
    };
    let (exit, written) = tokio::join!(script, writing);
    let (written, saw_end) = written?;
    let exit = match exit {
        Ok(exit) => exit,
        Err(Error::WrongState { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match written {
        // A failed write caused the closed pipe that the script reported.
        Err(error) if !saw_end => Err(error),
        _ if exit.status == UNSUPPORTED => Ok(None),
        _ if exit.status > TAR_FILE_CHANGED => Err(exit.into_error(path, "pull")),
        Err(error) => Err(error),
        Ok(report) => Ok(Some(Report {
            notes: exit.stderr,
            ..report
        })),
    }
}

/// Unpacks the archive. Also returns whether the archive was read to its end.
fn write_archive(
    reader: BlockingPipe,
    options: &UnpackOptions,
    progress: &TransferProgress,
) -> (Result<Report>, bool) {
    let mut reader = BufReader::with_capacity(128 * 1024, reader);
    let written = unpack_to(&mut reader, options, progress);
    if written.is_ok() {
        // Read the padding after the archive, so that the pixel does not see a closed
        // pipe.
        let _ = io::copy(&mut reader, &mut io::sink());
    }
    let saw_end = matches!(reader.read(&mut [0]), Ok(0));
    (written, saw_end)
}

fn unpack_to(
    reader: &mut BufReader<BlockingPipe>,
    options: &UnpackOptions,
    progress: &TransferProgress,
) -> Result<Report> {
    let mut line = String::new();
    let mut head = reader.by_ref().take(SIZE_LINE);
    head.read_line(&mut line)
        .map_err(|e| Error::io("cannot read the archive from the pixel", e))?;
    let size: u64 = line
        .trim_end()
        .parse()
        .map_err(|_| Error::Protocol("the pixel sent no archive".into()))?;
    progress.add_total(size);
    unpack(reader, options, progress)
}

/// Copies the content of a file to `output`. Follows links inside the pixel.
/// Fails with [`Error::Invalid`] if the path is a directory.
pub async fn read(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    source: &GuestPath,
    output: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<()> {
    let path = source.path.as_str();
    let request = guest_script::request(READ, &[path]);
    let script = guest_script::run(guest, &request, tokio::io::empty(), output);
    let exit = unless_cancelled(cancel, script).await?;
    match exit.status {
        0 => Ok(()),
        IS_A_DIRECTORY => {
            let reason = Reason::from(format!("{path:?} in the pixel is a directory"));
            let hint = format!(
                "to stream its contents as an archive, run: pixels exec NAME -- tar c -C {path} ."
            );
            Err(Error::Invalid(reason.with_hint(hint)))
        }
        _ => Err(exit.into_error(path, "pull")),
    }
}
