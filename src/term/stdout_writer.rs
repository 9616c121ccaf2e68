//! Asynchronous stdout and stderr for the output of a command.
//!
//! The file descriptors stay in blocking mode, because other processes may
//! share them. A thread writes the output. Output that arrives during a write
//! is buffered, and then written without waiting for a full line or buffer.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::model::lock;

/// Size of the buffer in bytes. The sender waits while the buffer is full.
const LIMIT: usize = 1024 * 1024;

/// Maximum time that dropping a writer waits for the remaining output.
const DROP_TIMEOUT: Duration = Duration::from_millis(500);

/// The result of a writer's output, available even after the writer was dropped.
#[derive(Debug)]
pub struct WriteOutcome(Arc<Shared>);

impl WriteOutcome {
    /// Why output was lost. The error is `BrokenPipe` if the reader closed the pipe.
    pub fn error(&self) -> Option<io::Error> {
        self.0.lock().error()
    }
}

/// Writes to stdout or stderr. A flush waits until all output is written.
#[derive(Debug)]
pub struct StdoutWriter {
    shared: Arc<Shared>,
    /// The output file, passed to the writing thread with the first byte.
    file: Option<File>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notifies the thread of new data or the end of data, and notifies a writer in
    /// `drop` of progress.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<u8>,
    writing: bool,
    /// Whether the thread is waiting for data.
    idle: bool,
    error: Option<io::Error>,
    closed: bool,
    /// Wakes a task that waits for buffer space or for a flush.
    waker: Option<Waker>,
}

impl State {
    /// Returns a copy of the error.
    fn error(&self) -> Option<io::Error> {
        let error = self.error.as_ref()?;
        Some(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => error.kind().into(),
        })
    }
}

impl StdoutWriter {
    pub fn stdout() -> io::Result<Self> {
        Self::new(io::stdout().as_fd())
    }

    pub fn stderr() -> io::Result<Self> {
        Self::new(io::stderr().as_fd())
    }

    pub fn outcome(&self) -> WriteOutcome {
        WriteOutcome(Arc::clone(&self.shared))
    }

    fn new(stream: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::default(),
            file: Some(stream.try_clone_to_owned()?.into()),
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn write_out(&self, mut file: File) {
        let mut data = Vec::new();
        let mut state = self.lock();
        loop {
            state.idle = true;
            let no_data = |state: &mut State| state.pending.is_empty() && !state.closed;
            let woken = self.changed.wait_while(state, no_data);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
            if state.pending.is_empty() {
                return;
            }
            std::mem::swap(&mut data, &mut state.pending);
            state.writing = true;
            // The sender may fill the buffer during this write.
            self.notify(&mut state);
            drop(state);
            let written = file.write_all(&data);
            data.clear();
            state = self.lock();
            state.writing = false;
            if let Err(error) = written {
                state.error = Some(error);
                state.pending = Vec::new();
                self.notify(&mut state);
                return;
            }
            self.notify(&mut state);
        }
    }

    /// Wakes a writer that is waiting in `poll_write`, `poll_flush` or `drop`.
    fn notify(&self, state: &mut State) {
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        if state.closed {
            self.changed.notify_one();
        }
    }
}

impl AsyncWrite for StdoutWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(file) = self.file.take() {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new()
                .name("output".into())
                .spawn(move || shared.write_out(file));
            if let Err(error) = started {
                self.shared.lock().error = Some(error);
            }
        }
        let mut state = self.shared.lock();
        if let Some(error) = state.error() {
            return Poll::Ready(Err(error));
        }
        let room = LIMIT.saturating_sub(state.pending.len());
        if room == 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = room.min(data.len());
        state.pending.extend_from_slice(&data[..length]);
        if state.idle {
            self.shared.changed.notify_one();
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if let Some(error) = state.error() {
            return Poll::Ready(Err(error));
        }
        if state.pending.is_empty() && !state.writing {
            return Poll::Ready(Ok(()));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Drop for StdoutWriter {
    /// Waits up to [`DROP_TIMEOUT`] for output that was not flushed, for example
    /// after an error.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_one();
        let busy = |state: &mut State| {
            state.error.is_none() && (state.writing || !state.pending.is_empty())
        };
        drop(
            self.shared
                .changed
                .wait_timeout_while(state, DROP_TIMEOUT, busy),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn pipe() -> (File, StdoutWriter) {
        let (read, write) = io::pipe().unwrap();
        let writer = StdoutWriter::new(write.as_fd()).unwrap();
        (File::from(std::os::fd::OwnedFd::from(read)), writer)
    }

    #[tokio::test]
    async fn write_large_output_kept_in_order() {
        let (mut read, mut writer) = pipe();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            read.read_to_end(&mut all).unwrap();
            all
        });
        let sent: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7) as u8).collect();
        for piece in sent.chunks(70_001) {
            writer.write_all(piece).await.unwrap();
        }
        writer.flush().await.unwrap();
        drop(writer);
        assert!(reader.join().unwrap() == sent);
    }

    #[tokio::test]
    async fn write_few_bytes_not_held_back() {
        let (mut read, mut writer) = pipe();
        writer.write_all(b"a").await.unwrap();
        let mut one = [0];
        read.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"a");
    }

    #[tokio::test]
    async fn write_after_reader_closed_fails() {
        let (read, mut writer) = pipe();
        drop(read);
        let _ = writer.write_all(b"a").await;
        let error = writer.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(writer.write_all(b"b").await.is_err());
    }
}
