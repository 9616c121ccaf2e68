//! Captures output of commands in bounded memory, because pixels control the size.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};

use super::{Error, ExecIo, ExecRequest, Guest, Output, Result, lock};

/// Maximum number of stderr bytes in an error message.
const QUOTED: usize = 4 * 1024;
/// Limit for stdout of pixels' own commands, in bytes. These commands print far
/// less. An MCP server may keep many such buffers.
pub(super) const STDOUT: usize = 16 * 1024 * 1024;
/// Limit for stderr of pixels' own commands, in bytes.
const STDERR: usize = 256 * 1024;

/// Like [`Guest::output`], with a limit of `limit` bytes for stdout.
pub async fn collect_up_to<G: Guest + ?Sized>(
    guest: &G,
    request: &ExecRequest,
    limit: usize,
) -> Result<Output> {
    let (stdout, stderr) = (Capture::head(limit), Capture::head(STDERR));
    let (_control, control) = mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(tokio::io::empty()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        control,
    };
    let too_large = || Error::TooLarge {
        what: "the output of a command in the pixel".into(),
        limit: limit as u64,
    };
    let status = tokio::select! {
        () = stdout.overflow() => return Err(too_large()),
        status = guest.exec(request, io) => status?,
    };
    let stdout = stdout.take();
    if stdout.omitted() > 0 {
        return Err(too_large());
    }
    Ok(Output {
        status,
        stdout: stdout.head,
        stderr: stderr.take().head,
    })
}

/// Runs a command with these streams until it exits. Returns the exit status and
/// the first bytes of stderr. Dropping the future kills the command.
pub async fn run_with_streams<G: Guest + ?Sized>(
    guest: &G,
    request: &ExecRequest,
    stdin: impl AsyncRead + Send + Unpin + 'static,
    stdout: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<Output> {
    let stderr = Capture::default();
    let (_control, control) = mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr.clone()),
        control,
    };
    Ok(Output {
        status: guest.exec(request, io).await?,
        stdout: Vec::new(),
        stderr: stderr.take().head,
    })
}

/// Receives the data written to a [`Writer`].
pub trait Record {
    fn record(&mut self, data: &[u8]);
}

/// A stream that passes all bytes to a [`Record`]. Writing never blocks and
/// never fails. Clones share the record.
#[derive(Debug, Default)]
pub struct Writer<T>(Arc<Mutex<T>>);

impl<T> Writer<T> {
    pub fn new(record: T) -> Self {
        Self(Arc::new(Mutex::new(record)))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.0)
    }
}

impl<T> Clone for Writer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Record> AsyncWrite for Writer<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.lock().record(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A writer that keeps the beginning and the end of a stream of any length.
pub type Capture = Writer<HeadTail>;

/// The record of a [`Capture`]. By default keeps the first 4 KiB, for an error
/// message.
#[derive(Debug)]
pub struct HeadTail {
    captured: Captured,
    head_limit: usize,
    tail_limit: usize,
    overflow: Arc<Notify>,
}

/// The data that a [`Capture`] kept.
#[derive(Debug, Default)]
pub struct Captured {
    pub head: Vec<u8>,
    /// The end of the stream, after the omitted bytes.
    pub tail: VecDeque<u8>,
    /// Number of bytes written.
    pub total: u64,
}

impl Captured {
    /// Number of bytes that are neither in `head` nor in `tail`.
    pub fn omitted(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }
}

impl Default for HeadTail {
    fn default() -> Self {
        Self {
            captured: Captured::default(),
            head_limit: QUOTED,
            tail_limit: 0,
            overflow: Arc::default(),
        }
    }
}

impl Record for HeadTail {
    fn record(&mut self, data: &[u8]) {
        let Captured { head, tail, total } = &mut self.captured;
        *total += data.len() as u64;
        let fits = data.len().min(self.head_limit - head.len());
        let (first, rest) = data.split_at(fits);
        head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let excess = (tail.len() + rest.len()).saturating_sub(self.tail_limit);
        tail.drain(..excess);
        tail.extend(rest);
        if self.captured.omitted() > 0 {
            self.overflow.notify_one();
        }
    }
}

impl Capture {
    /// Creates a capture that keeps the first `limit` bytes.
    pub fn head(limit: usize) -> Self {
        Self::head_and_tail(limit, 0)
    }

    /// Creates a capture that keeps the first `head` and the last `tail` bytes.
    pub fn head_and_tail(head: usize, tail: usize) -> Self {
        Self::new(HeadTail {
            head_limit: head,
            tail_limit: tail,
            ..HeadTail::default()
        })
    }

    /// Returns and clears the captured data.
    pub fn take(&self) -> Captured {
        std::mem::take(&mut self.lock().captured)
    }

    /// Waits until the capture omits bytes.
    async fn overflow(&self) {
        let overflow = Arc::clone(&self.lock().overflow);
        overflow.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::model::ExitStatus;
    use crate::model::fake::FakeBackend;

    async fn capture(kept: &Capture, pieces: &[&[u8]]) -> Captured {
        for piece in pieces {
            kept.clone().write_all(piece).await.unwrap();
        }
        kept.take()
    }

    #[tokio::test]
    async fn capture_keeps_both_ends() {
        let kept = Capture::head_and_tail(3, 4);
        let whole = capture(&kept, &[b"ab", b"cdefg"]).await;
        assert_eq!((&whole.head[..], whole.omitted()), (&b"abc"[..], 0));
        assert_eq!(whole.tail, *b"defg");
        let cut = capture(&kept, &[b"a", b"bcde", b"fghijk", b"lm"]).await;
        assert_eq!((&cut.head[..], cut.omitted()), (&b"abc"[..], 6));
        assert_eq!((cut.tail, cut.total), (b"jklm".to_vec().into(), 13));
    }

    #[tokio::test]
    async fn output_above_the_limit_is_too_large() {
        let backend = FakeBackend::with_pixels(["a"]);
        backend.on_exec(|_, command| {
            let length = command.strip_prefix("print ")?.parse().ok()?;
            Some(Output {
                status: ExitStatus(0),
                stdout: vec![b'x'; length],
                stderr: Vec::new(),
            })
        });
        let name = "a".parse().unwrap();
        let guest = crate::model::Backend::guest(&backend, &name);
        let print = |length: &str| ExecRequest::root(["print", length]);
        let whole = collect_up_to(&*guest, &print("100"), 100).await.unwrap();
        assert_eq!(whole.stdout, [b'x'; 100]);
        let error = collect_up_to(&*guest, &print("101"), 100)
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { limit: 100, .. }),
            "{error}"
        );
    }
}
