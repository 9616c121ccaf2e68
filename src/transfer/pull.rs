//! From a pixel onto this machine.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channel_io;
use super::confined_write::Tree;
use super::push::blocking;
use super::unpack::{OwnerMapping, UnpackTarget, unpack};
use super::{
    GuestPath, LocalTarget, NO_TAR, Ownership, Report, TransferProgress, explain, per_file,
};
use crate::model::{Error, ExecIo, ExecRequest, Guest, HeadBuffer, Result};

pub const SCRIPT: &str = include_str!("guest/send.sh");
/// The line before the archive.
const SIZE_LINE: u64 = 32;
/// What tar ends with when files changed while it read them.
const CHANGED: i32 = 1;

/// What is to be pulled, from one pixel.
pub struct Pull {
    pub source: GuestPath,
    pub target: LocalTarget,
    /// More is pulled to the same target: it is a folder.
    pub several: bool,
    pub ownership: Ownership,
    /// Ask for the size first, for whoever watches.
    pub sized: bool,
}

/// Transfers a file or folder. A folder joins one of the same name; a file
/// takes the place of one. Nothing is written outside the target, whatever
/// the pixel sends. When it fails or is cancelled, there are whole files or none.
pub async fn pull(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Pull,
    meter: &Arc<TransferProgress>,
) -> Result<Report> {
    let (root, naming) = place(options)?;
    let how = if options.source.contents || options.source.path == "/" {
        "contents"
    } else {
        "whole"
    };
    let size = if options.sized { "size" } else { "" };
    let request = ExecRequest::root([
        "/bin/sh",
        "-c",
        SCRIPT,
        "send",
        options.source.path.as_str(),
        how,
        size,
    ]);
    let job = Receive {
        root: root.clone(),
        arrival: UnpackTarget {
            naming,
            ownership: options.ownership,
            times: HashMap::new(),
        },
        path: options.source.path.clone(),
    };
    match receive(guest, cancel, &request, tokio::io::empty(), job, meter).await? {
        Some(report) => Ok(report),
        None => per_file::pull(guest, cancel, options, &place(options)?, meter).await,
    }
}

/// The folder that is written to, and what the source is called in it.
fn place(options: &Pull) -> Result<(PathBuf, OwnerMapping)> {
    let target = &options.target.path;
    let is_folder = target.is_dir();
    if options.source.contents || options.source.path == "/" {
        return Ok((target.clone(), OwnerMapping::Kept));
    }
    if is_folder || options.target.directory || options.several {
        let name = options.source.name().as_bytes().to_owned();
        return Ok((target.clone(), OwnerMapping::Top(name)));
    }
    let name = target.file_name().ok_or_else(|| {
        Error::Invalid(format!("{} is no name for a file or folder", target.display()).into())
    })?;
    let root = match target.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((root, OwnerMapping::Top(name.as_encoded_bytes().to_owned())))
}

/// Where an archive goes.
pub struct Receive {
    pub root: PathBuf,
    pub arrival: UnpackTarget,
    /// In the pixel, for messages.
    pub path: String,
}

/// Runs the script and unpacks what it sends; `None` when the pixel cannot
/// send an archive, and nothing was touched.
pub async fn receive(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    request: &ExecRequest,
    input: impl AsyncRead + Send + Unpin + 'static,
    job: Receive,
    meter: &Arc<TransferProgress>,
) -> Result<Option<Report>> {
    let (sink, reader) = channel_io::inward();
    let path = job.path.clone();
    let writing = {
        let meter = Arc::clone(meter);
        blocking(move || Ok(write_out(reader, &job, &meter)))
    };
    let said = HeadBuffer::default();
    let (_steer, control) = mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(input),
        stdout: Box::new(sink),
        stderr: Box::new(said.clone()),
        control,
    };
    // Ends the stream also when it is dropped.
    let command = async {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                meter.stop();
                Err(Error::Cancelled)
            }
            status = guest.exec(request, io) => {
                if !matches!(&status, Ok(status) if status.0 <= CHANGED) {
                    // What has come so far may end anywhere.
                    meter.stop();
                }
                status
            }
        }
    };
    let (status, written) = tokio::join!(command, writing);
    let (written, saw_end) = written?;
    let status = match status {
        Ok(status) => status,
        Err(Error::WrongState { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let said = said.take();
    match written {
        // It was us who gave up; the pixel only saw a closed pipe.
        Err(error) if !saw_end => Err(error),
        _ if status.0 == NO_TAR => Ok(None),
        _ if status.0 > CHANGED => Err(explain(status.0, &said, &path, "pull")),
        Err(error) => Err(error),
        Ok(report) => Ok(Some(Report {
            notes: String::from_utf8_lossy(&said).trim().to_owned(),
            ..report
        })),
    }
}

/// Writes what comes; tells too whether it came to its end.
fn write_out(
    reader: channel_io::Reader,
    job: &Receive,
    meter: &TransferProgress,
) -> (Result<Report>, bool) {
    let mut reader = BufReader::with_capacity(128 * 1024, reader);
    let written = write_archive(&mut reader, job, meter);
    if written.is_ok() {
        // Padding behind the archive; the pixel is not to see a closed pipe.
        let _ = io::copy(&mut reader, &mut io::sink());
    }
    let saw_end = reader.get_ref().has_ended();
    (written, saw_end)
}

fn write_archive(
    reader: &mut BufReader<channel_io::Reader>,
    job: &Receive,
    meter: &TransferProgress,
) -> Result<Report> {
    let broken = |e| Error::io("reading the archive from the pixel", e);
    let mut line = String::new();
    let mut head = reader.by_ref().take(SIZE_LINE);
    head.read_line(&mut line).map_err(broken)?;
    let size: u64 = line
        .trim_end()
        .parse()
        .map_err(|_| Error::Protocol("no archive came from the pixel".into()))?;
    meter.expect(size);
    let doing = || format!("writing to {}", job.root.display());
    fs::create_dir_all(&job.root).map_err(|e| Error::io(doing(), e))?;
    let mut tree = Tree::open(&job.root).map_err(|e| Error::io(doing(), e))?;
    unpack(reader, &mut tree, &job.arrival, meter)
}

/// Reads one file and passes on what is in it. A link is followed inside the
/// pixel.
pub async fn read(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    source: &GuestPath,
    output: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<()> {
    let script = "[ -e \"$1\" ] || exit 96; [ ! -d \"$1\" ] || exit 99; exec cat -- \"$1\"";
    let path = source.path.as_str();
    let request = ExecRequest::root(["/bin/sh", "-c", script, "read", path]);
    let said = HeadBuffer::default();
    let (_steer, control) = mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(tokio::io::empty()),
        stdout: Box::new(output),
        stderr: Box::new(said.clone()),
        control,
    };
    let status = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Error::Cancelled),
        status = guest.exec(&request, io) => status?,
    };
    match status.0 {
        0 => Ok(()),
        99 => Err(Error::Invalid(
            format!(
                "{path} is a folder: pixels exec NAME -- tar c -C {path} . makes one stream of it"
            )
            .into(),
        )),
        status => Err(explain(status, &said.take(), path, "pull")),
    }
}
