//! What a command in a pixel prints, in memory. The pixel decides how much
//! that is, so there is an end to it here.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::sync::{Notify, mpsc};

use super::{Error, ExecIo, ExecRequest, Guest, HeadBuffer, Output, Result};

/// Far more than our scripts have to say; a server with many calls at work
/// holds many of these.
const LIMIT: usize = 16 * 1024 * 1024;
/// Of stderr.
const SAID: usize = 256 * 1024;

/// Runs a command without input and collects what it prints: the beginning of
/// stderr, and the whole of stdout. One that prints without end is given up,
/// with `Error::TooLarge`.
pub async fn collect(guest: &dyn Guest, request: &ExecRequest) -> Result<Output> {
    collect_up_to(guest, request, LIMIT).await
}

/// The same for a command that may print so many bytes.
pub async fn collect_up_to(
    guest: &dyn Guest,
    request: &ExecRequest,
    limit: usize,
) -> Result<Output> {
    let full = Arc::new(Notify::new());
    let stdout = BoundedBuffer {
        bytes: Arc::default(),
        limit,
        full: Arc::clone(&full),
    };
    let stderr = HeadBuffer::up_to(SAID);
    let (_steer, control) = mpsc::channel(1);
    let io = ExecIo {
        stdin: Box::new(tokio::io::empty()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        control,
    };
    tokio::select! {
        biased;
        () = full.notified() => Err(Error::TooLarge {
            what: "what a command in the pixel prints".into(),
            limit: limit as u64,
        }),
        status = guest.exec(request, io) => Ok(Output {
            status: status?,
            stdout: std::mem::take(&mut stdout.lock()),
            stderr: stderr.take(),
        }),
    }
}

#[derive(Debug, Clone)]
struct BoundedBuffer {
    bytes: Arc<Mutex<Vec<u8>>>,
    limit: usize,
    full: Arc<Notify>,
}

impl BoundedBuffer {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncWrite for BoundedBuffer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut bytes = self.lock();
        if bytes.len() + data.len() > self.limit {
            self.full.notify_one();
            return Poll::Ready(Err(std::io::ErrorKind::FileTooLarge.into()));
        }
        bytes.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::model::{ExitStatus, FileStat, GuestFile};

    /// Prints so many bytes and ends, or, when nobody takes them, does not.
    struct Printer(usize);

    #[async_trait]
    impl Guest for Printer {
        async fn exec(&self, _: &ExecRequest, mut io: ExecIo) -> Result<ExitStatus> {
            for _ in 0..self.0 {
                if io.stdout.write_all(b"x").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Ok(ExitStatus(0))
        }

        async fn output(&self, request: &ExecRequest) -> Result<Output> {
            collect_up_to(self, request, 100).await
        }

        async fn read_file(&self, _: &str, _: u64) -> Result<Vec<u8>> {
            unreachable!()
        }
        async fn write_file(&self, _: &GuestFile) -> Result<()> {
            unreachable!()
        }
        async fn write_chunks(&self, _: &str, _: mpsc::Receiver<Bytes>) -> Result<()> {
            unreachable!()
        }
        async fn rename(&self, _: &str, _: &str) -> Result<()> {
            unreachable!()
        }
        async fn remove_file(&self, _: &str) -> Result<()> {
            unreachable!()
        }
        async fn make_dir(&self, _: &str) -> Result<()> {
            unreachable!()
        }
        async fn symlink(&self, _: &str, _: &str) -> Result<()> {
            unreachable!()
        }
        async fn read_link(&self, _: &str) -> Result<String> {
            unreachable!()
        }
        async fn list_dir(&self, _: &str) -> Result<Vec<String>> {
            unreachable!()
        }
        async fn stat(&self, _: &str) -> Result<FileStat> {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn a_command_that_prints_without_end_is_given_up() {
        let request = ExecRequest::root(["yes"]);
        let whole = Printer(100).output(&request).await.unwrap();
        assert_eq!(whole.stdout, [b'x'; 100]);
        let endless = Printer(101).output(&request).await.unwrap_err();
        assert!(
            matches!(endless, Error::TooLarge { limit: 100, .. }),
            "{endless}"
        );
    }
}
