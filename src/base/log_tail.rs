//! Forwards the output of a setup script, and keeps its last lines for the
//! error if the script fails.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::Record;

/// Number of last lines kept for the error.
const LINES: usize = 20;
/// Maximum length of a line, because progress bars may print no line ends.
const LENGTH: usize = 500;

/// A callback for each complete line of output.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// Forwards a script's output line by line and keeps the last lines.
pub struct LogTail {
    sink: Sink,
    open: Vec<u8>,
    last: VecDeque<String>,
}

impl LogTail {
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            open: Vec::new(),
            last: VecDeque::new(),
        }
    }

    /// Returns the last lines, including an incomplete line.
    pub fn tail(&mut self) -> String {
        self.end_line();
        Vec::from(std::mem::take(&mut self.last)).join("\n")
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

impl Record for LogTail {
    fn record(&mut self, data: &[u8]) {
        for byte in data {
            match byte {
                b'\n' | b'\r' => self.end_line(),
                byte if self.open.len() < LENGTH => self.open.push(*byte),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn whole_lines_are_passed_on_and_the_last_are_kept() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let seen = seen.clone();
            Arc::new(move |line: &str| seen.lock().unwrap().push(line.to_owned()))
        };
        let mut lines = LogTail::new(sink);
        lines.record(b"one\ntw");
        lines.record(b"o\r\n\n");
        for number in 0..30 {
            lines.record(format!("line {number}\n").as_bytes());
        }
        lines.record(b"open");
        assert_eq!(seen.lock().unwrap()[..2], ["one", "two"]);
        let tail = lines.tail();
        assert_eq!(tail.lines().count(), LINES);
        assert!(tail.ends_with("line 29\nopen"), "{tail}");
    }
}
