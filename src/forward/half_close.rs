//! The near end of a connection. The pixel's streams end only with its command,
//! so the relay tells on stderr how many bytes there were when the far side
//! has sent its last.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Digits of a number of bytes, and the end of the line.
const LINE: usize = 24;

/// Two writers: what the pixel prints, and what it tells. When both have said
/// that this is all, `to` is dropped, which ends that direction.
pub fn ends<W: AsyncWrite + Send + Unpin>(to: W) -> (Data<W>, Word<W>) {
    let shared = Arc::new(Mutex::new(End {
        to: Some(to),
        written: 0,
        total: None,
    }));
    let word = Word {
        shared: Arc::clone(&shared),
        line: Vec::new(),
    };
    (Data(shared), word)
}

struct End<W> {
    to: Option<W>,
    written: u64,
    total: Option<u64>,
}

impl<W> End<W> {
    fn look(&mut self) {
        if self.total.is_some_and(|total| self.written >= total) {
            self.to = None;
        }
    }
}

fn lock<W>(shared: &Mutex<End<W>>) -> MutexGuard<'_, End<W>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Data<W>(Arc<Mutex<End<W>>>);

impl<W: AsyncWrite + Unpin> AsyncWrite for Data<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut end = lock(&self.0);
        let Some(to) = &mut end.to else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let written = ready!(Pin::new(to).poll_write(cx, data))?;
        end.written += written as u64;
        end.look();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut lock(&self.0).to {
            Some(to) => Pin::new(to).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl<W> Drop for Data<W> {
    /// The command's output is over, whatever was told.
    fn drop(&mut self) {
        lock(&self.0).to = None;
    }
}

pub struct Word<W> {
    shared: Arc<Mutex<End<W>>>,
    line: Vec<u8>,
}

impl<W: Unpin> AsyncWrite for Word<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = LINE.saturating_sub(self.line.len()).min(data.len());
        self.line.extend_from_slice(&data[..room]);
        if let Some(text) = self.line.strip_suffix(b"\n") {
            let total = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
            let mut end = lock(&self.shared);
            end.total = end.total.or(total);
            end.look();
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_direction_ends_when_all_has_come() {
        for early in [true, false] {
            let (mut near, far) = tokio::io::duplex(64);
            let (mut data, mut word) = ends(far);
            data.write_all(b"he").await.unwrap();
            if early {
                word.write_all(b"5\n").await.unwrap();
            }
            data.write_all(b"llo").await.unwrap();
            if !early {
                word.write_all(b"5\n").await.unwrap();
            }
            let mut text = String::new();
            near.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello");
            assert!(data.write_all(b"x").await.is_err());
        }
    }

    #[tokio::test]
    async fn noise_is_not_an_end() {
        let (_near, far) = tokio::io::duplex(64);
        let (mut data, mut word) = ends(far);
        word.write_all(b"perl: warning: Setting locale failed.\n")
            .await
            .unwrap();
        data.write_all(b"x").await.unwrap();
    }
}
