//! From this machine into a pixel.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};
use tokio_util::sync::CancellationToken;

use super::channel_io;
use super::walk::{Item, joined, walk};
use super::{
    GuestPath, NO_TAR, Ownership, Report, Rules, TransferProgress, explain, pack, per_file,
    sftp_push,
};
use crate::model::{Error, ExecIo, ExecRequest, ExitStatus, Guest, HeadBuffer, Ids, Result};

/// For the pixel to clean up behind a transfer that was ended.
pub(super) const PARTING: Duration = Duration::from_secs(5);
const SCRIPT: &str = include_str!("guest/receive.sh");

/// What is to be pushed.
pub struct Push {
    /// Files and folders; `dir/.` means what is in it.
    pub sources: Vec<PathBuf>,
    pub target: GuestPath,
    pub ownership: Ownership,
    /// The owner of folders that are made on the way.
    pub owner: Ids,
    /// A name that no other transfer uses.
    pub id: String,
}

/// Transfers files and folders. A folder joins one of the same name; a file
/// takes the place of one. When it fails or is cancelled nothing has changed,
/// or, in folders that were there before, some of the files have.
pub async fn push(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    meter: &Arc<TransferProgress>,
) -> Result<Report> {
    let (how, items) = collect_items(options, meter).await?;
    if let [item] = &items[..]
        && let Some(report) = sftp_push::push(guest, cancel, options, how, item, meter).await?
    {
        return Ok(report);
    }
    let running = send(guest, cancel, options, how, items.clone(), meter).await?;
    match running {
        Some(report) => Ok(report),
        None => per_file::push(guest, cancel, options, &items, how.contents(), meter).await,
    }
}

/// How the far side puts what it got into place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The one entry, under the destination's name or, in a folder, its own.
    As,
    Into,
    Contents,
}

impl Placement {
    fn word(self) -> &'static str {
        match self {
            Self::As => "as",
            Self::Into => "into",
            Self::Contents => "contents",
        }
    }

    /// The word where the one file is filled from outside.
    pub(super) fn filled(self) -> &'static str {
        match self {
            Self::As => "filled",
            Self::Into | Self::Contents => "filled-into",
        }
    }

    pub fn contents(self) -> bool {
        self == Self::Contents
    }
}

/// What stands below this name in the archive is what is transferred.
pub const TREE: &[u8] = b"tree";

async fn collect_items(
    options: &Push,
    meter: &Arc<TransferProgress>,
) -> Result<(Placement, Vec<Item>)> {
    let sources = options.sources.clone();
    let target_is_folder = options.target.directory;
    let meter = Arc::clone(meter);
    blocking(move || {
        let contents: Vec<bool> = sources
            .iter()
            .map(|source| is_contents_form(source))
            .collect();
        let rules = Rules::default();
        if let ([source], [true]) = (&sources[..], &contents[..]) {
            return Ok((Placement::Contents, walk(source, TREE, &rules, &meter)?));
        }
        let mut items = Vec::new();
        for (source, contents) in sources.iter().zip(contents) {
            if contents {
                let within = walk(source, TREE, &rules, &meter)?;
                items.extend(within.into_iter().skip(1));
                continue;
            }
            let resolved = || {
                let real = source.canonicalize().ok()?;
                real.file_name().map(ToOwned::to_owned)
            };
            // `..` has a name only when it is resolved.
            let name = source.file_name().map(ToOwned::to_owned);
            let name = name.or_else(resolved).ok_or_else(|| {
                Error::Invalid(
                    format!(
                        "{0} has no name to arrive under: {0}/. means what is in it",
                        source.display()
                    )
                    .into(),
                )
            })?;
            let name = std::os::unix::ffi::OsStringExt::into_vec(name);
            items.extend(walk(source, &joined(TREE, &name), &rules, &meter)?);
        }
        let single = sources.len() == 1 && !target_is_folder;
        Ok((
            if single {
                Placement::As
            } else {
                Placement::Into
            },
            items,
        ))
    })
    .await
}

/// `.`, `dir/.`, `..`: a folder, of which the contents are meant.
pub fn is_contents_form(source: &std::path::Path) -> bool {
    let text = source.as_os_str().as_encoded_bytes();
    text == b"." || text.ends_with(b"/.")
}

/// Sends the items as one archive; `None` when the pixel cannot take one.
pub async fn send(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    how: Placement,
    items: Vec<Item>,
    meter: &Arc<TransferProgress>,
) -> Result<Option<Report>> {
    let request = request(options, how.word(), &[]);
    let (writer, reader) = channel_io::outward();
    let packing = {
        let (meter, ownership) = (Arc::clone(meter), options.ownership);
        tokio::task::spawn_blocking(move || pack::pack(&items, ownership, &meter, writer))
    };
    let said = HeadBuffer::default();
    let command = receive(guest, &request, reader, tokio::io::sink(), &said);
    tokio::pin!(command);
    let status = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            // The input ends before its mark, and the pixel throws it away.
            meter.stop();
            let _ = tokio::time::timeout(PARTING, command).await;
            return Err(Error::Cancelled);
        }
        status = &mut command => status,
    };
    let status = match status {
        Ok(status) => status,
        Err(Error::WrongState { .. }) => {
            meter.stop();
            return Ok(None);
        }
        Err(error) => {
            meter.stop();
            return Err(error);
        }
    };
    if status.success() {
        let report = packing
            .await
            .map_err(|e| Error::Protocol(e.to_string()))??;
        return Ok(Some(Report {
            notes: String::from_utf8_lossy(&said.take()).trim().to_owned(),
            ..report
        }));
    }
    meter.stop();
    if status.0 == NO_TAR {
        return Ok(None);
    }
    // When our side failed, the pixel only saw its input end.
    match (status.0, packing.await) {
        (CUT_OFF, Ok(Err(error))) => Err(error),
        _ => Err(explain(
            status.0,
            &said.take(),
            &options.target.path,
            "push",
        )),
    }
}

pub(super) const CUT_OFF: i32 = 95;

pub(super) fn request(options: &Push, how: &str, more: &[String]) -> ExecRequest {
    let owner = format!("{}:{}", options.owner.uid, options.owner.gid);
    let path = options.target.path.as_str();
    let script = ["/bin/sh", "-c", SCRIPT, "receive", path, how, &options.id];
    ExecRequest::root(
        script
            .into_iter()
            .chain([owner.as_str()])
            .chain(more.iter().map(String::as_str)),
    )
}

pub(super) async fn receive(
    guest: &dyn Guest,
    request: &ExecRequest,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
    said: &HeadBuffer,
) -> Result<ExitStatus> {
    let (_steer, control) = mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(input),
        stdout: Box::new(output),
        stderr: Box::new(said.clone()),
        control,
    };
    guest.exec(request, io).await
}

/// Writes one file from a stream of unknown length. `wish.sources` is not
/// looked at. When it fails or is cancelled, what was there is unchanged.
pub async fn write(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    options: &Push,
    mode: u32,
    input: impl AsyncRead + Send + Unpin + 'static,
    meter: &Arc<TransferProgress>,
) -> Result<Report> {
    if options.target.directory {
        return Err(Error::Invalid(
            "what comes from stdin needs a file's name to arrive under".into(),
        ));
    }
    let counter = Arc::clone(meter);
    let end = futures_util::stream::iter([Ok(bytes::Bytes::from(options.id.clone()))]);
    let content = ReaderStream::with_capacity(input, 128 * 1024)
        .inspect(move |chunk| counter.add(chunk.as_ref().map_or(0, |c| c.len() as u64)))
        .chain(end)
        .take_until(cancel.clone().cancelled_owned());
    let said = HeadBuffer::default();
    let input = StreamReader::new(Box::pin(content));
    let request = request(options, "raw", &[format!("{mode:o}")]);
    let command = receive(guest, &request, input, tokio::io::sink(), &said);
    tokio::pin!(command);
    let status = tokio::select! {
        status = &mut command => status?,
        () = async {
            cancel.cancelled().await;
            tokio::time::sleep(PARTING).await;
        } => return Err(Error::Cancelled),
    };
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    if !status.success() {
        return Err(explain(
            status.0,
            &said.take(),
            &options.target.path,
            "push",
        ));
    }
    Ok(Report {
        files: 1,
        bytes: meter.done(),
        ..Report::default()
    })
}

/// Runs what waits for files on a thread of its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Protocol(format!("a thread at work on files: {e}")))?
}
