//! The one owner of stdout and stderr: results on stdout, talk on stderr.

mod progress_bar;
mod sanitize;
mod spinner;
mod table;

#[cfg(test)]
mod fuzz;

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::OnceLock;

use serde::Serialize;

pub use progress_bar::ProgressBar;
use sanitize::sanitize;
pub use spinner::Spinner;
pub use table::{Row, bytes, elapsed, human_duration, table};

use crate::model::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// How this run talks.
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

    /// Rows as a table, or as one JSON array. `empty` is said on stderr when
    /// there are none, so that scripts read an empty result.
    pub fn rows<T: Row>(&self, rows: &[T], empty: &str) {
        if self.json() {
            self.value(&rows);
        } else if rows.is_empty() {
            self.status(empty);
        } else {
            stdout(&table(rows));
        }
    }

    /// The result of a command that changed something: a sentence for people,
    /// the facts for programs.
    pub fn done(&self, sentence: &str, facts: &impl Serialize) {
        if self.json() {
            self.value(facts);
        } else if !self.quiet {
            stdout(&format!("{}\n", sanitize(sentence)));
        }
    }

    /// One JSON document on a line of its own.
    pub fn value(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => stdout(&format!("{text}\n")),
            Err(error) => self.warn(&format!("cannot print the result: {error}")),
        }
    }

    /// Text as it is, whatever the format.
    pub fn text(&self, text: &str) {
        stdout(text);
    }

    /// Whether results are looked at by a person.
    pub fn is_interactive(&self) -> bool {
        !self.json() && io::stdout().is_terminal()
    }

    /// Whether results still arrive: what goes on telling them ends otherwise.
    pub fn has_reader(&self) -> bool {
        LOST.get().is_none()
    }

    /// Rows in the place of those shown before, on a terminal.
    pub fn screen<T: Row>(&self, rows: &[T]) {
        stdout(&format!("\x1b[H\x1b[J{}", table(rows)));
    }

    /// Talk: what happens and what to do next.
    pub fn status(&self, line: &str) {
        if !self.quiet && !self.json() {
            stderr(&format!("{}\n", sanitize(line)));
        }
    }

    /// What a process of ours said on its stderr, as it is.
    pub fn relay(&self, text: &str) {
        stderr(text);
    }

    /// Said whatever the format: something is not as the user thinks.
    /// `HEAD MESSAGE` on stderr, even when quiet: the command failed.
    pub fn error(&self, message: &str) {
        stderr(&format!(
            "{} {}\n",
            paint("Error:", "31"),
            sanitize(message)
        ));
    }

    /// A line below an error.
    pub fn error_detail(&self, line: &str) {
        stderr(&format!("  {}\n", sanitize(line)));
    }

    /// What to do about an error.
    pub fn hint(&self, hint: &str) {
        stderr(&format!("{} {}\n", paint("hint:", "36"), sanitize(hint)));
    }

    /// An error as one JSON document on stderr.
    pub fn error_document(&self, document: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(document) {
            stderr(&format!("{text}\n"));
        }
    }

    pub fn warn(&self, line: &str) {
        if self.json() {
            stderr(&format!("{}\n", serde_json::json!({"warning": line})));
            return;
        }
        let head = paint("warning:", "33");
        stderr(&format!("{head} {}\n", sanitize(line)));
    }

    /// A progress line on a terminal; lines with `-v`; nothing else.
    pub fn phases(&self) -> Spinner {
        Spinner::new(self.verbose, self.quiet || self.json())
    }

    /// A bar with rate and remaining time on a terminal; nothing else.
    /// `look` tells what is done and what there is to do, 0 while unknown.
    pub fn bar(&self, look: impl Fn() -> (u64, u64) + Send + 'static) -> ProgressBar {
        ProgressBar::new(!self.quiet && !self.json(), look)
    }

    /// Asks on the terminal; `None` when there is nobody to ask.
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

/// Why results were lost, the first time that happened.
static LOST: OnceLock<io::Error> = OnceLock::new();

fn stdout(text: &str) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    record_write(written.and_then(|()| stdout.flush()));
}

/// Notes how writing results went.
pub fn record_write(written: io::Result<()>) {
    if let Err(error) = written {
        let _ = LOST.set(error);
    }
}

/// Why results could not be written, as on a full disk. A reader that went
/// away (`| head -1`) has what it wanted.
pub fn write_error() -> Option<Error> {
    let error = LOST.get()?;
    let told = io::Error::new(error.kind(), error.to_string());
    (error.kind() != io::ErrorKind::BrokenPipe).then(|| Error::io("writing to stdout", told))
}

fn stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Colour on a terminal that wants it.
fn paint(text: &str, code: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || std::env::var_os("TERM").is_some_and(|v| v == "dumb")
        || !io::stderr().is_terminal();
    if plain {
        text.to_owned()
    } else {
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
