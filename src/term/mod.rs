//! The user's terminal: raw mode, size, hidden input, and the output streams.

mod plain_writer;
mod stdout_writer;

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::sync::Mutex;

use rustix::termios::{self, InputModes, LocalModes, OptionalActions, Termios};

pub use plain_writer::PlainWriter;
pub use stdout_writer::StdoutWriter;

use crate::model::{TtySize, lock};
use crate::plain::plain_line;

/// The terminal settings to restore at exit, or `None` if nothing has changed.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode, in which the terminal passes every key to the program. Dropping
/// this value restores the terminal.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Enters raw mode. Fails if stdin is not a terminal.
    pub fn enter() -> std::io::Result<Self> {
        let saved = termios::tcgetattr(std::io::stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)?;
        *lock(&SAVED) = Some(saved);
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal before the program exits.
pub fn restore() {
    let saved = lock(&SAVED).take();
    if let Some(saved) = saved {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &saved);
    }
}

/// Prompts for a secret without showing the input, even in raw mode. Returns
/// `None` without a terminal or at the end of input.
pub fn ask_secret(question: &str) -> Option<String> {
    let mut terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .ok()?;
    let before = termios::tcgetattr(&terminal).ok()?;
    let mut hidden = before.clone();
    hidden.input_modes |= InputModes::ICRNL;
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes |= LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
    termios::tcsetattr(&terminal, OptionalActions::Flush, &hidden).ok()?;
    // A signal that ends the program restores the terminal. In raw mode, this
    // restores the settings from before raw mode.
    let mut saved = lock(&SAVED);
    let registered = saved.is_none();
    saved.get_or_insert_with(|| before.clone());
    drop(saved);
    let question = plain_line(question);
    let answer = terminal.write_all(question.as_bytes()).and_then(|()| {
        let mut line = String::new();
        BufReader::new(&terminal).read_line(&mut line)?;
        Ok(line)
    });
    if registered {
        lock(&SAVED).take();
    }
    let _ = termios::tcsetattr(&terminal, OptionalActions::Drain, &before);
    // The end of input does not count as an answer.
    let answer = answer.ok()?;
    let line = answer.strip_suffix('\n')?;
    Some(line.trim_end_matches('\r').to_owned())
}

/// Raises the limit for open files, because each connection needs several.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// Returns whether stdin and stdout are terminals.
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Returns the size of the terminal, or 80 by 24 if unknown.
pub fn size() -> TtySize {
    let size = termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| termios::tcgetwinsize(std::io::stdin()));
    match size {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => TtySize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
        _ => TtySize {
            columns: 80,
            rows: 24,
        },
    }
}
