//! Writes output of commands in pixels as plain text.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::StdoutWriter;
use crate::model::incomplete_end;
use crate::plain::plain;

/// Writes a stream of bytes as [plain](crate::plain) text. Carriage returns, with
/// which programs overwrite a line, end the line.
#[derive(Debug)]
pub struct PlainWriter<W> {
    to: W,
    /// Plain text that is not written yet.
    pending: Vec<u8>,
    /// The beginning of an incomplete character.
    incomplete: Vec<u8>,
    /// Whether the last character was a carriage return.
    after_return: bool,
}

impl PlainWriter<StdoutWriter> {
    pub fn stderr() -> io::Result<Self> {
        StdoutWriter::stderr().map(Self::new)
    }
}

impl<W: AsyncWrite + Unpin> PlainWriter<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            pending: Vec::new(),
            incomplete: Vec::new(),
            after_return: false,
        }
    }

    fn push(&mut self, data: &[u8]) {
        let mut bytes = std::mem::take(&mut self.incomplete);
        bytes.extend_from_slice(data);
        self.incomplete = bytes.split_off(bytes.len() - incomplete_end(&bytes));
        let mut text = String::with_capacity(bytes.len());
        for c in String::from_utf8_lossy(&bytes).chars() {
            if !(c == '\n' && self.after_return) {
                text.push(if c == '\r' { '\n' } else { c });
            }
            self.after_return = c == '\r';
        }
        self.pending.extend_from_slice(plain(&text).as_bytes());
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.to).poll_write(cx, &self.pending))?;
            self.pending.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for PlainWriter<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        self.push(data);
        // The rest follows with the next write or flush.
        match self.poll_pending(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn output_cut_anywhere_is_plain() {
        let output = "10%\r20%\r\nb\u{fc}cher \u{1f600}\x1b[2J\u{9b}1m\u{202e}\n\n\r\n".as_bytes();
        let expected = "10%\n20%\nb\u{fc}cher \u{1f600}\u{fffd}[2J\u{fffd}1m\u{fffd}\n\n\n";
        for cut in 0..output.len() {
            let mut writer = PlainWriter::new(Vec::new());
            writer.write_all(&output[..cut]).await.unwrap();
            writer.write_all(&output[cut..]).await.unwrap();
            writer.flush().await.unwrap();
            assert_eq!(String::from_utf8(writer.to).unwrap(), expected, "{cut}");
        }
    }
}
