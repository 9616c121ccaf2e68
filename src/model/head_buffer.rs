//! What a command in a pixel says on stderr, for a message: its beginning,
//! however much it is.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Enough for what a user is shown.
const LIMIT: usize = 4 * 1024;

/// The near end of the stream: takes everything and keeps the first of it.
#[derive(Debug, Clone)]
pub struct HeadBuffer {
    kept: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl Default for HeadBuffer {
    fn default() -> Self {
        Self::up_to(LIMIT)
    }
}

impl HeadBuffer {
    pub fn up_to(limit: usize) -> Self {
        Self {
            kept: Arc::default(),
            limit,
        }
    }

    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncWrite for HeadBuffer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut said = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.limit.saturating_sub(said.len()).min(data.len());
        said.extend_from_slice(&data[..room]);
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
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_beginning_is_kept_and_the_rest_taken() {
        let said = HeadBuffer::default();
        let mut stream = said.clone();
        stream.write_all(b"first\n").await.unwrap();
        stream.write_all(&[b'x'; 3 * LIMIT]).await.unwrap();
        let kept = said.take();
        assert!(kept.starts_with(b"first\nxx"));
        assert_eq!(kept.len(), LIMIT);
    }
}
