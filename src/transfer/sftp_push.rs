//! One large file into a running pixel, by the fastest way there is: the
//! server's own access to files, many packets at a time. A script in the pixel
//! prepares the place, moves the file to its name when all is there, and is
//! left to clean up when this side is gone.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::mtime::Mtime;
use super::push::{CUT_OFF, PARTING, Placement, Push, TREE, blocking, receive, request};
use super::walk::Item;
use super::{NO_TAR, Report, TransferProgress, explain, pack, sparse};
use crate::model::{Error, FileKind, Guest, HeadBuffer, MAX_CHUNK, Result};

/// Below it what there is to prepare takes longer than is won.
const LEAST: u64 = 16 * 1024 * 1024;
/// Chunks that are read before they can be sent.
const AHEAD: usize = 4;

/// Sends the one file. `None`, before anything has changed, when it is not one
/// for this way, or the pixel is not.
pub async fn push(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    how: Placement,
    item: &Item,
    meter: &Arc<TransferProgress>,
) -> Result<Option<Report>> {
    let name = item.name.strip_prefix(TREE).unwrap_or(&item.name);
    let name = std::str::from_utf8(name).map(|name| name.trim_start_matches('/'));
    let (how, Ok(name)) = (how.filled(), name) else {
        return Ok(None);
    };
    let Some(Source {
        file,
        size,
        changed,
    }) = open(item.clone()).await?
    else {
        return Ok(None);
    };
    let owner = options.ownership.of(&item.meta);
    let more = [
        format!("{:o}", item.meta.mode() & 0o7777),
        format!("{}.{:09}", changed.seconds, changed.nanos),
        format!("{}:{}", owner.uid, owner.gid),
        name.to_owned(),
    ];
    let request = request(options, how, &more);

    let output_head = HeadBuffer::default();
    let (tell, input) = tokio::io::duplex(256);
    let (output, told) = tokio::io::duplex(256);
    let over = CancellationToken::new();
    let command = async {
        let status = receive(guest, &request, input, output, &output_head).await;
        over.cancel();
        status
    };
    let filling = async {
        tokio::select! {
            biased;
            filled = send_chunks(guest, file, size, (told, tell, &options.id), meter) => filled,
            () = over.cancelled() => Ok(Filled::Not),
        }
    };
    let work = async { tokio::join!(command, filling) };
    tokio::pin!(work);
    let (status, filled) = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            meter.stop();
            let _ = tokio::time::timeout(PARTING, work).await;
            return Err(Error::Cancelled);
        }
        done = &mut work => done,
    };
    let status = match status {
        Ok(status) => status,
        Err(Error::WrongState { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    match filled? {
        Filled::Unseen => Ok(None),
        Filled::Stuck(error) if status.0 == CUT_OFF => Err(match error {
            // The place it was written at says nothing to anybody.
            Error::Io { source, .. } => Error::io(
                format!("writing {} in the pixel", options.target.path),
                source,
            ),
            other => other,
        }),
        _ if status.0 == NO_TAR => Ok(None),
        Filled::Whole if status.success() => Ok(Some(Report {
            files: 1,
            bytes: size,
            notes: String::from_utf8_lossy(&output_head.take())
                .trim()
                .to_owned(),
            ..Report::default()
        })),
        Filled::Not if status.success() => Err(Error::Protocol(
            "the pixel wants no more of a file that was not sent".into(),
        )),
        _ => Err(explain(
            status.0,
            &output_head.take(),
            &options.target.path,
            "push",
        )),
    }
}

struct Source {
    file: File,
    size: u64,
    changed: Mtime,
}

/// `None`: small, or with holes, which an archive passes over.
async fn open(item: Item) -> Result<Option<Source>> {
    if !item.meta.is_file() || item.meta.len() < LEAST {
        return Ok(None);
    }
    blocking(move || {
        let opened = || {
            let file = pack::open(&item.source)?;
            let meta = file.metadata()?;
            let whole = meta.is_file() && sparse::segments(&file, meta.len())?.is_none();
            Ok(whole.then(|| Source {
                file,
                size: meta.len(),
                changed: Mtime::of(&meta),
            }))
        };
        opened().map_err(|e| Error::io(format!("sending {}", item.source.display()), e))
    })
    .await
}

enum Filled {
    Whole,
    /// The script ended first.
    Not,
    /// What it prepared is not there for the server's file access.
    Unseen,
    /// No more could be written; the script looks why.
    Stuck(Error),
}

/// Fills the file that is told of, and says so.
async fn send_chunks(
    guest: &dyn Guest,
    file: File,
    size: u64,
    (told, mut tell, id): (DuplexStream, DuplexStream, &str),
    meter: &Arc<TransferProgress>,
) -> Result<Filled> {
    // A session takes a while to open; the script, to begin.
    let (place, _) = tokio::join!(read_ready_path(told), guest.stat("/"));
    let Some(place) = place else {
        return Ok(Filled::Not);
    };
    if !matches!(guest.stat(&place).await, Ok(found) if found.kind == FileKind::File) {
        return Ok(Filled::Unseen);
    }
    let (to, content) = mpsc::channel(AHEAD);
    let reading = {
        let meter = Arc::clone(meter);
        blocking(move || read(file, size, &meter, &to))
    };
    let (read, filled) = tokio::join!(reading, guest.write_chunks(&place, content));
    read?;
    let whole = match filled {
        Ok(()) => guest.stat(&place).await.map(|found| found.size == size),
        Err(error) => Err(error),
    };
    let (word, outcome) = match whole {
        Ok(true) => (id, Filled::Whole),
        Ok(false) => return Err(Error::Protocol("the file is not what was sent".into())),
        Err(error) => ("stuck", Filled::Stuck(error)),
    };
    // Whether it still listens, its exit code tells.
    let _ = tell.write_all(format!("{word}\n").as_bytes()).await;
    let _ = tell.shutdown().await;
    Ok(outcome)
}

async fn read_ready_path(told: DuplexStream) -> Option<String> {
    let mut line = String::new();
    let mut told = BufReader::new(told.take(64));
    told.read_line(&mut line).await.ok()?;
    let process = line.strip_prefix("/proc/")?.strip_suffix("/cwd/raw\n")?;
    process.parse::<u32>().ok()?;
    Some(line.trim_end().to_owned())
}

/// Reads exactly as much as was promised.
fn read(
    mut file: File,
    size: u64,
    meter: &TransferProgress,
    to: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let mut left = size;
    while left > 0 {
        meter.check_cancelled().map_err(|_| Error::Cancelled)?;
        let length = left.min(MAX_CHUNK as u64);
        let mut chunk = Vec::with_capacity(MAX_CHUNK);
        let got = (&mut file).take(length).read_to_end(&mut chunk);
        let failed = |e| Error::io("reading what is sent", e);
        if (got.map_err(failed)? as u64) < length {
            let shorter = "it became shorter while it was read";
            return Err(failed(io::Error::other(shorter)));
        }
        if to.blocking_send(chunk.into()).is_err() {
            // The other side has its own reason.
            return Ok(());
        }
        meter.add(length);
        left -= length;
    }
    Ok(())
}
