//! The output of commands: results on stdout, messages on stderr.
//!
//! All output is [plain](mod@crate::plain), except text that [`Ui::raw`] writes and the
//! escape sequences of this module. Only here and in `term` may code write to the
//! standard streams; `tests/it/printing.rs` lists the exceptions.

mod progress_bar;
mod spinner;
mod table;

#[cfg(test)]
mod fuzz;

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;

pub use progress_bar::ProgressBar;
pub use spinner::Spinner;
pub use table::{Row, bytes, elapsed, human_duration, milliseconds, table};

use crate::model::Error;
use crate::plain::{self, plain, plain_line};

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
            stdout("", &table(rows));
        }
    }

    /// Prints the result of a command that changed something: `sentence`, or `json`
    /// as one JSON document.
    pub fn done(&self, sentence: &str, json: &impl Serialize) {
        if self.json() {
            self.value(json);
        } else if !self.quiet {
            stdout("", &format!("{sentence}\n"));
        }
    }

    /// Prints a JSON document on one line, regardless of the output format.
    pub fn value(&self, value: &impl Serialize) {
        match plain::json(value) {
            Ok(text) => stdout("", &format!("{text}\n")),
            Err(error) => self.warn(&format!("cannot print the result: {error}")),
        }
    }

    /// Prints text of several lines, regardless of the output format.
    pub fn text(&self, text: &str) {
        stdout("", text);
    }

    /// Prints one line, regardless of the output format.
    pub fn line(&self, line: &str) {
        stdout("", &format!("{}\n", plain_line(line)));
    }

    /// Writes bytes unchanged. For files that pixels generates from its own text.
    pub fn raw(&self, bytes: &[u8]) {
        write_stdout(bytes);
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
        stdout("\x1b[H\x1b[J", &table(rows));
    }

    /// Prints a message, unless the output is quiet or JSON.
    pub fn status(&self, line: &str) {
        if !self.quiet && !self.json() {
            stderr("", &format!("{line}\n"));
        }
    }

    /// Prints the stderr of a child process.
    pub fn relay(&self, text: &str) {
        stderr("", text);
    }

    /// Prints an error message, even if the output is quiet.
    pub fn error(&self, message: &str) {
        labeled("Error: ", "\x1b[31mError:\x1b[0m ", message);
    }

    /// Prints the message of the argument parser, without its label `error: `.
    pub fn usage_error(&self, message: &str) {
        let label = label("error: ", "\x1b[31merror:\x1b[0m ");
        stderr(label, &format!("{message}\n"));
    }

    /// Prints a line below an error.
    pub fn error_detail(&self, line: &str) {
        stderr("", &format!("  {}\n", plain_line(line)));
    }

    /// Prints a hint that helps to resolve an error.
    pub fn hint(&self, hint: &str) {
        labeled("hint: ", "\x1b[36mhint:\x1b[0m ", hint);
    }

    /// Prints an error as one JSON document to stderr.
    pub fn error_document(&self, document: &impl Serialize) {
        if let Ok(text) = plain::json(document) {
            stderr("", &format!("{text}\n"));
        }
    }

    /// Prints a warning, even if the output is quiet or JSON.
    pub fn warn(&self, line: &str) {
        if self.json() {
            self.error_document(&serde_json::json!({"warning": line}));
        } else {
            labeled("warning: ", "\x1b[33mwarning:\x1b[0m ", line);
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
        stderr("", &format!("{} [y/N] ", plain_line(question)));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).ok()?;
        if !answer.ends_with('\n') {
            stderr("", "\n");
        }
        Some(matches!(
            answer.trim().to_ascii_lowercase().as_str(),
            "y" | "yes"
        ))
    }
}

/// The first error while writing results.
static WRITE_ERROR: OnceLock<io::Error> = OnceLock::new();

/// Prints text to stdout. `style` is text of this program, which may contain
/// escape sequences.
fn stdout(style: &'static str, text: &str) {
    write_stdout(format!("{style}{}", plain(text)).as_bytes());
}

fn write_stdout(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes);
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

/// Like [`stdout`], to stderr.
fn stderr(style: &'static str, text: &str) {
    let text = format!("{style}{}", plain(text));
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes each buffer to stderr as one plain line, for a logger.
#[derive(Debug, Clone, Copy)]
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        stderr("", &format!("{}\n", plain_line(text.trim_end())));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints a message to stderr. Further lines are indented, so that none looks like
/// a message of its own.
fn labeled(plain: &'static str, colored: &'static str, message: &str) {
    let message = message.replace('\n', "\n  ");
    stderr(label(plain, colored), &format!("{message}\n"));
}

/// Chooses a label. No color if stderr is not a terminal or `NO_COLOR` is set.
fn label(plain: &'static str, colored: &'static str) -> &'static str {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || std::env::var_os("TERM").is_some_and(|v| v == "dumb")
        || !io::stderr().is_terminal();
    if no_color { plain } else { colored }
}
