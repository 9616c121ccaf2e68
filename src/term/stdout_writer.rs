//! Our stdout and stderr for a command's output.
//!
//! They may be pipes or files that we share with others, so they stay
//! blocking, and a thread does the writing. While it writes, what arrives is
//! gathered and goes out in one piece: the next one is received meanwhile.
//! Nothing is held back for a full line or buffer.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use tokio::io::AsyncWrite;

/// A reader this far behind makes the sender wait.
const LIMIT: usize = 1024 * 1024;

/// How long a dropped outlet waits for its reader.
const PARTING: Duration = Duration::from_millis(500);

/// Tells what became of an outlet's output, also when the outlet is gone.
#[derive(Debug)]
pub struct WriteOutcome(Arc<Shared>);

impl WriteOutcome {
    /// Why output was lost. A reader that went away is `BrokenPipe`.
    pub fn loss(&self) -> Option<io::Error> {
        self.0.lock().error.map(IoErrorCopy::error)
    }
}

/// An I/O error that can be told more than once.
#[derive(Debug, Clone, Copy)]
struct IoErrorCopy {
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl IoErrorCopy {
    fn of(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            code: error.raw_os_error(),
        }
    }

    fn error(self) -> io::Error {
        self.code
            .map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }
}

/// One of our streams. Flushing waits until all is written.
#[derive(Debug)]
pub struct StdoutWriter {
    shared: Arc<Shared>,
    /// Until the first byte, when the thread takes it.
    file: Option<File>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Tells the thread of data, or that there will be no more.
    news: Condvar,
    /// Tells an outlet that is being dropped that something was written.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    /// The thread has nothing to do and must be told of data.
    idle: bool,
    error: Option<IoErrorCopy>,
    closed: bool,
    /// Waits for room, or for all to be written.
    waker: Option<Waker>,
}

impl StdoutWriter {
    pub fn stdout() -> io::Result<Self> {
        Self::of(io::stdout().as_fd())
    }

    pub fn stderr() -> io::Result<Self> {
        Self::of(io::stderr().as_fd())
    }

    pub fn fate(&self) -> WriteOutcome {
        WriteOutcome(Arc::clone(&self.shared))
    }

    fn of(stream: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::default(),
            file: Some(stream.try_clone_to_owned()?.into()),
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, mut file: File) {
        let mut data = Vec::new();
        let mut state = self.lock();
        loop {
            while state.waiting.is_empty() {
                if state.closed {
                    return;
                }
                state.idle = true;
                state = self
                    .news
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle = false;
            }
            std::mem::swap(&mut data, &mut state.waiting);
            state.writing = true;
            // The sender fills the next piece while this one is written.
            self.tell(&mut state);
            drop(state);
            let written = file.write_all(&data);
            data.clear();
            state = self.lock();
            state.writing = false;
            if let Err(error) = &written {
                state.error = Some(IoErrorCopy::of(error));
                state.waiting = Vec::new();
            }
            self.tell(&mut state);
            if written.is_err() {
                return;
            }
        }
    }

    /// Something changed for whoever writes to the outlet or drops it.
    fn tell(&self, state: &mut State) {
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        if state.closed {
            self.done.notify_one();
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
                self.shared.lock().error = Some(IoErrorCopy::of(&error));
                return Poll::Ready(Err(error));
            }
        }
        let mut state = self.shared.lock();
        if let Some(loss) = state.error {
            return Poll::Ready(Err(loss.error()));
        }
        let room = LIMIT.saturating_sub(state.waiting.len());
        if room == 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = room.min(data.len());
        state.waiting.extend_from_slice(&data[..taken]);
        if state.idle {
            self.shared.news.notify_one();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if let Some(loss) = state.error {
            return Poll::Ready(Err(loss.error()));
        }
        if state.waiting.is_empty() && !state.writing {
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
    /// After an error or a time-out nobody flushed: what was received still
    /// goes out, unless its reader makes us wait.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.news.notify_one();
        let busy = |state: &mut State| {
            state.error.is_none() && (state.writing || !state.waiting.is_empty())
        };
        drop(self.shared.done.wait_timeout_while(state, PARTING, busy));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn pipe() -> (File, StdoutWriter) {
        let (read, write) = io::pipe().unwrap();
        let outlet = StdoutWriter::of(write.as_fd()).unwrap();
        (File::from(std::os::fd::OwnedFd::from(read)), outlet)
    }

    #[tokio::test]
    async fn all_bytes_come_out_in_order() {
        let (mut read, mut outlet) = pipe();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            read.read_to_end(&mut all).unwrap();
            all
        });
        let sent: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7) as u8).collect();
        for piece in sent.chunks(70_001) {
            outlet.write_all(piece).await.unwrap();
        }
        outlet.flush().await.unwrap();
        drop(outlet);
        assert!(reader.join().unwrap() == sent);
    }

    #[tokio::test]
    async fn a_few_bytes_are_not_held_back() {
        let (mut read, mut outlet) = pipe();
        outlet.write_all(b"a").await.unwrap();
        let mut one = [0];
        read.read_exact(&mut one).unwrap();
        assert_eq!(&one, b"a");
    }

    #[tokio::test]
    async fn a_reader_that_left_is_an_error_for_the_writer() {
        let (read, mut outlet) = pipe();
        drop(read);
        let _ = outlet.write_all(b"a").await;
        let error = outlet.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(outlet.write_all(b"b").await.is_err());
    }
}
