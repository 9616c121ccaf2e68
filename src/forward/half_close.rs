//! Closes the direction from the pixel to the local client when the server in
//! the pixel closes its side, while the other direction stays open.
//!
//! The stdout of a command ends only when the command exits. The relay
//! therefore reports the total number of bytes on stderr, as one line of
//! decimal digits, after the server has sent its last byte.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::model::{Record, Writer};

/// Maximum length of the line: 20 digits, the line break, and a small reserve.
const MAX_LINE: usize = 24;

/// Returns writers for stdout and stderr of the relay. Drops `client`, which
/// closes the direction, after the number of bytes reported on stderr was
/// written, or when the writer for stdout is dropped.
pub fn writers<W: AsyncWrite>(client: W) -> (DataWriter<W>, Writer<Direction<W>>) {
    let direction = Writer::new(Direction {
        client: Some(client),
        written: 0,
        line: Vec::new(),
        total: None,
    });
    (DataWriter(direction.clone()), direction)
}

pub struct Direction<W> {
    client: Option<W>,
    written: u64,
    /// The first bytes of stderr.
    line: Vec<u8>,
    total: Option<u64>,
}

impl<W> Direction<W> {
    fn close_if_complete(&mut self) {
        if self.total.is_some_and(|total| self.written >= total) {
            self.client = None;
        }
    }
}

/// Parses the total from stderr of the relay. Ignores other output.
impl<W> Record for Direction<W> {
    fn record(&mut self, data: &[u8]) {
        let accepted = MAX_LINE.saturating_sub(self.line.len()).min(data.len());
        self.line.extend_from_slice(&data[..accepted]);
        if let Some(text) = self.line.strip_suffix(b"\n") {
            let total = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
            self.total = self.total.or(total);
            self.close_if_complete();
        }
    }
}

/// Writes stdout of the relay to the client.
pub struct DataWriter<W>(Writer<Direction<W>>);

impl<W: AsyncWrite + Unpin> AsyncWrite for DataWriter<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut direction = self.0.lock();
        let Some(client) = &mut direction.client else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let written = ready!(Pin::new(client).poll_write(cx, data))?;
        direction.written += written as u64;
        direction.close_if_complete();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0.lock().client {
            Some(client) => Pin::new(client).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl<W> Drop for DataWriter<W> {
    fn drop(&mut self) {
        self.0.lock().client = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn client_is_closed_after_the_announced_bytes() {
        for length_first in [true, false] {
            let (mut near, far) = tokio::io::duplex(64);
            let (mut data, mut length) = writers(far);
            data.write_all(b"he").await.unwrap();
            if length_first {
                length.write_all(b"5\n").await.unwrap();
            }
            data.write_all(b"llo").await.unwrap();
            if !length_first {
                length.write_all(b"5\n").await.unwrap();
            }
            let mut text = String::new();
            near.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello");
            assert!(data.write_all(b"x").await.is_err());
        }
    }

    #[tokio::test]
    async fn other_stderr_output_is_ignored() {
        let (_near, far) = tokio::io::duplex(64);
        let (mut data, mut length) = writers(far);
        length
            .write_all(b"perl: warning: Setting locale failed.\n")
            .await
            .unwrap();
        data.write_all(b"x").await.unwrap();
    }
}
