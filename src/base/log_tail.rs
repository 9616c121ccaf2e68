//! What a setup script prints: passed on as it comes, and its end kept for
//! the case that the script fails.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Lines that explain a failure.
const LINES: usize = 20;
/// Of one line; a progress bar without line ends must not fill the memory.
const LENGTH: usize = 500;

/// Takes whole lines as they come.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// The near end of both of a script's streams.
#[derive(Clone)]
pub struct LogTail(Arc<Mutex<Inner>>);

struct Inner {
    sink: Sink,
    open: Vec<u8>,
    last: VecDeque<String>,
}

impl LogTail {
    pub fn new(sink: Sink) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            sink,
            open: Vec::new(),
            last: VecDeque::new(),
        })))
    }

    /// The last lines, an unfinished one included.
    pub fn tail(&self) -> String {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.end_line();
        Vec::from(std::mem::take(&mut inner.last)).join("\n")
    }
}

impl Inner {
    fn take(&mut self, data: &[u8]) {
        for byte in data {
            match byte {
                b'\n' | b'\r' => self.end_line(),
                byte if self.open.len() < LENGTH => self.open.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.open).trim_end().to_owned();
        self.open.clear();
        if line.is_empty() {
            return;
        }
        (self.sink)(&line);
        if self.last.len() == LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

impl AsyncWrite for LogTail {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(data);
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
    use super::*;

    #[test]
    fn whole_lines_are_passed_on_and_the_last_are_kept() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let seen = seen.clone();
            Arc::new(move |line: &str| seen.lock().unwrap().push(line.to_owned()))
        };
        let lines = LogTail::new(sink);
        let mut inner = lines.0.lock().unwrap();
        inner.take(b"one\ntw");
        inner.take(b"o\r\n\n");
        for number in 0..30 {
            inner.take(format!("line {number}\n").as_bytes());
        }
        inner.take(b"open");
        drop(inner);
        assert_eq!(seen.lock().unwrap()[..2], ["one", "two"]);
        let tail = lines.tail();
        assert_eq!(tail.lines().count(), LINES);
        assert!(tail.ends_with("line 29\nopen"), "{tail}");
    }
}
