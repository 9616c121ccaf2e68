//! Connects threads that block on files to the asynchronous streams of a
//! command, by a bounded queue of chunks.

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
/// Chunks in the queue.
const QUEUE: usize = 8;

/// A writer for a thread, and the asynchronous reader of its data. The reader
/// ends when the writer is dropped. The writer fails with `BrokenPipe` when the
/// reader is dropped. Flush the writer before dropping it.
pub fn blocking_writer() -> (Writer, impl AsyncRead + Send + Unpin) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUE);
    let chunks = poll_fn(move |cx| receiver.poll_recv(cx)).map(Ok::<_, io::Error>);
    let writer = Writer {
        sender,
        buffer: BytesMut::with_capacity(CHUNK),
    };
    (writer, StreamReader::new(chunks))
}

/// An asynchronous writer, and the reader of its data for a thread. The reader
/// ends when the writer is dropped, and the other way round.
pub fn blocking_reader() -> (AsyncWriter, Reader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reader = Reader {
        receiver,
        chunk: Bytes::new(),
        ended: false,
    };
    (AsyncWriter(PollSender::new(sender)), reader)
}

pub struct Writer {
    sender: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..length]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK));
        self.sender
            .blocking_send(chunk.freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

pub struct Reader {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    ended: bool,
}

impl Reader {
    /// Whether all data was read and the writer is dropped.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

pub struct AsyncWriter(PollSender<Bytes>);

impl AsyncWrite for AsyncWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.0.poll_reserve(cx)).map_err(closed)?;
        let sent = self.0.send_item(Bytes::copy_from_slice(data));
        Poll::Ready(sent.map(|()| data.len()).map_err(closed))
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
    async fn data_arrives_unchanged_in_both_directions() {
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i / 5) as u8).collect();
        let (mut writer, mut reader) = blocking_writer();
        let data = sent.clone();
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_all(&data)?;
            writer.flush()
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap().unwrap();
        assert!(received == sent);

        let (mut writer, mut reader) = blocking_reader();
        let reading = tokio::task::spawn_blocking(move || {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).map(|_| received)
        });
        writer.write_all(&sent).await.unwrap();
        drop(writer);
        assert!(reading.await.unwrap().unwrap() == sent);
    }

    #[tokio::test]
    async fn write_fails_after_reader_is_dropped() {
        let (mut writer, reader) = blocking_writer();
        drop(reader);
        let failed = tokio::task::spawn_blocking(move || writer.write_all(&[0; 2 * CHUNK]));
        assert!(failed.await.unwrap().is_err());
        let (mut writer, reader) = blocking_reader();
        drop(reader);
        assert!(writer.write_all(b"x").await.is_err());
    }
}
