//! The output of commands: results on stdout, messages on stderr.

mod progress_bar;
mod sanitize;
mod spinner;
mod table;

#[cfg(test)]
mod fuzz;

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;

pub use progress_bar::ProgressBar;
use sanitize::sanitize;
pub use spinner::Spinner;
pub use table::{Row, bytes, elapsed, human_duration, milliseconds, table};

use crate::model::Error;

/// Delay before progress is drawn, so that fast commands do not flicker.
const DRAW_DELAY: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// The output options of the command line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ui {
    pub format: Format,
    pub quiet: bool,
    pub verbose: bool,
}

impl Ui {
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints rows as a table or as a JSON array. Instead of a table without rows,
    /// prints the message `empty` to stderr, so that stdout is empty.
    pub fn rows<T: Row>(&self, rows: &[T], empty: &str) {
        if self.json() {
            self.value(&rows);
        } else if rows.is_empty() {
            self.status(empty);
        } else {
            stdout(&table(rows));
        }
    }

    /// Prints the result of a command that changed something: `sentence`, or `json`
    /// as one JSON document.
    pub fn done(&self, sentence: &str, json: &impl Serialize) {
        if self.json() {
            self.value(json);
        } else if !self.quiet {
            stdout(&format!("{}\n", sanitize(sentence)));
        }
    }

    /// Prints a JSON document on one line, regardless of the output format.
    pub fn value(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => stdout(&format!("{text}\n")),
            Err(error) => self.warn(&format!("cannot print the result: {error}")),
        }
    }

    /// Prints text unchanged, regardless of the output format.
    pub fn text(&self, text: &str) {
        stdout(text);
    }

    /// Whether commands print tables to a terminal.
    pub fn is_interactive(&self) -> bool {
        !self.json() && io::stdout().is_terminal()
    }

    /// Whether all results were written so far. Commands that stream results exit
    /// when this returns false.
    pub fn has_reader(&self) -> bool {
        WRITE_ERROR.get().is_none()
    }

    /// Clears the terminal and prints the rows as a table.
    pub fn screen<T: Row>(&self, rows: &[T]) {
        stdout(&format!("\x1b[H\x1b[J{}", table(rows)));
    }

    /// Prints a message, unless the output is quiet or JSON.
    pub fn status(&self, line: &str) {
        if !self.quiet && !self.json() {
            stderr(&format!("{}\n", sanitize(line)));
        }
    }

    /// Prints the stderr of a child process unchanged.
    pub fn relay(&self, text: &str) {
        stderr(text);
    }

    /// Prints an error message, even if the output is quiet.
    pub fn error(&self, message: &str) {
        labeled("Error:", "31", message);
    }

    /// Prints a line below an error.
    pub fn error_detail(&self, line: &str) {
        stderr(&format!("  {}\n", sanitize(line)));
    }

    /// Prints a hint that helps to resolve an error.
    pub fn hint(&self, hint: &str) {
        labeled("hint:", "36", hint);
    }

    /// Prints an error as one JSON document to stderr.
    pub fn error_document(&self, document: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(document) {
            stderr(&format!("{text}\n"));
        }
    }

    /// Prints a warning, even if the output is quiet or JSON.
    pub fn warn(&self, line: &str) {
        if self.json() {
            stderr(&format!("{}\n", serde_json::json!({"warning": line})));
        } else {
            labeled("warning:", "33", line);
        }
    }

    /// Starts a progress line on a terminal, or prints a line per step with `-v`.
    pub fn spinner(&self) -> Spinner {
        Spinner::new(self.verbose, self.quiet || self.json())
    }

    /// Shows a progress bar on a terminal. `progress` returns the number of bytes
    /// done and the total, which is 0 while unknown.
    pub fn progress_bar(&self, progress: impl Fn() -> (u64, u64) + Send + 'static) -> ProgressBar {
        ProgressBar::new(!self.quiet && !self.json(), progress)
    }

    /// Asks a yes-or-no question. Returns `None` without a terminal.
    pub fn confirm(&self, question: &str) -> Option<bool> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        stderr(&format!("{} [y/N] ", sanitize(question)));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).ok()?;
        if !answer.ends_with('\n') {
            stderr("\n");
        }
        Some(matches!(
            answer.trim().to_ascii_lowercase().as_str(),
            "y" | "yes"
        ))
    }
}

/// The first error while writing results.
static WRITE_ERROR: OnceLock<io::Error> = OnceLock::new();

fn stdout(text: &str) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    record_write(written.and_then(|()| stdout.flush()));
}

/// Records the result of a write, for [`write_error`].
pub fn record_write(written: io::Result<()>) {
    if let Err(error) = written {
        let _ = WRITE_ERROR.set(error);
    }
}

/// Returns the first error while writing results, such as a full disk. A closed
/// pipe is not an error: a reader such as `head -1` has read enough.
pub fn write_error() -> Option<Error> {
    let first = WRITE_ERROR.get()?;
    let error = io::Error::new(first.kind(), first.to_string());
    (first.kind() != io::ErrorKind::BrokenPipe).then(|| Error::io("writing to stdout", error))
}

fn stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints a line to stderr. The label is colored, unless stderr is not a
/// terminal or `NO_COLOR` is set.
fn labeled(label: &str, color: &str, line: &str) {
    let line = sanitize(line);
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || std::env::var_os("TERM").is_some_and(|v| v == "dumb")
        || !io::stderr().is_terminal();
    if plain {
        stderr(&format!("{label} {line}\n"));
    } else {
        stderr(&format!("\x1b[{color}m{label}\x1b[0m {line}\n"));
    }
}
