//! Connects threads with blocking file access to the asynchronous streams of a
//! command.

use std::io::{self, Read, Write};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;

/// Capacity of the pipe in bytes. A writer waits while the pipe is full.
const CAPACITY: usize = 1024 * 1024;

/// The end of a pipe that a thread uses.
pub struct BlockingPipe {
    runtime: Handle,
    stream: DuplexStream,
}

/// Creates a pipe between a thread and asynchronous code. When one end is dropped, the
/// other end reads end of file, and fails to write with `BrokenPipe`.
pub fn blocking_pipe() -> (BlockingPipe, DuplexStream) {
    let (stream, other_end) = tokio::io::duplex(CAPACITY);
    let runtime = Handle::current();
    (BlockingPipe { runtime, stream }, other_end)
}

impl Read for BlockingPipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.stream.read(buffer))
    }
}

impl Write for BlockingPipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.stream.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn data_arrives_unchanged_in_both_directions() {
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i / 5) as u8).collect();
        let (mut pipe, mut stream) = blocking_pipe();
        let data = sent.clone();
        let writing = tokio::task::spawn_blocking(move || pipe.write_all(&data));
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap().unwrap();
        assert!(received == sent);

        let (mut pipe, mut stream) = blocking_pipe();
        let reading = tokio::task::spawn_blocking(move || {
            let mut received = Vec::new();
            pipe.read_to_end(&mut received).map(|_| received)
        });
        stream.write_all(&sent).await.unwrap();
        drop(stream);
        assert!(reading.await.unwrap().unwrap() == sent);
    }

    #[tokio::test]
    async fn write_fails_after_the_other_end_is_dropped() {
        let (mut pipe, stream) = blocking_pipe();
        drop(stream);
        let failed = tokio::task::spawn_blocking(move || pipe.write_all(b"x"));
        assert!(failed.await.unwrap().is_err());
        let (pipe, mut stream) = blocking_pipe();
        drop(pipe);
        assert!(stream.write_all(b"x").await.is_err());
    }
}
