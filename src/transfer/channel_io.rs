//! Between threads that read and write files and the streams of a command in
//! the pixel: bounded, so that neither side runs ahead of the other.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;

const CHUNK: usize = 128 * 1024;
/// Chunks under way.
const DEPTH: usize = 8;

/// What is written to the first, in a thread, is read from the second. The
/// reader ends when the writer is dropped.
pub fn outward() -> (Writer, impl AsyncRead + Send + Unpin) {
    let (to, mut from) = mpsc::channel::<Bytes>(DEPTH);
    let chunks = poll_fn(move |cx| from.poll_recv(cx)).map(Ok::<_, io::Error>);
    let writer = Writer {
        to,
        buffer: BytesMut::with_capacity(CHUNK),
    };
    (writer, StreamReader::new(chunks))
}

/// What is written to the first is read from the second, in a thread.
pub fn inward() -> (Sink, Reader) {
    let (to, from) = mpsc::channel(DEPTH);
    let reader = Reader {
        from,
        chunk: Bytes::new(),
        ended: false,
    };
    (Sink(PollSender::new(to)), reader)
}

pub struct Writer {
    to: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..taken]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK));
        self.to
            .blocking_send(full.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

pub struct Reader {
    from: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    ended: bool,
}

impl Reader {
    /// Whether all was read that will ever come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.from.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let taken = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

pub struct Sink(PollSender<Bytes>);

impl AsyncWrite for Sink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.0.poll_reserve(cx)).map_err(gone)?;
        let sent = self.0.send_item(Bytes::copy_from_slice(data));
        Poll::Ready(sent.map(|()| data.len()).map_err(gone))
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
    async fn bytes_come_through_in_both_directions() {
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i / 5) as u8).collect();
        let (mut writer, mut reader) = outward();
        let data = sent.clone();
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_all(&data)?;
            writer.flush()
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        writing.await.unwrap().unwrap();
        assert!(got == sent);

        let (mut sink, mut reader) = inward();
        let reading = tokio::task::spawn_blocking(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).map(|_| got)
        });
        sink.write_all(&sent).await.unwrap();
        drop(sink);
        assert!(reading.await.unwrap().unwrap() == sent);
    }

    #[tokio::test]
    async fn a_side_that_leaves_is_noticed_by_the_other() {
        let (mut writer, reader) = outward();
        drop(reader);
        let failed = tokio::task::spawn_blocking(move || writer.write_all(&[0; 2 * CHUNK]));
        assert!(failed.await.unwrap().is_err());
        let (mut sink, reader) = inward();
        drop(reader);
        assert!(sink.write_all(b"x").await.is_err());
    }
}
