//! The user's terminal: raw mode that is always undone, and its size; our
//! output streams.

mod stdout_writer;

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{self, InputModes, LocalModes, OptionalActions, Termios};

pub use stdout_writer::StdoutWriter;

use crate::model::TtySize;

/// The settings to go back to; set while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal passes every key through while this lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Needs stdin to be a terminal.
    pub fn enter() -> std::io::Result<Self> {
        let saved = termios::tcgetattr(std::io::stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Undoes raw mode, from wherever the program is about to end.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(saved) = saved {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &saved);
    }
}

/// Asks a question whose answer is not shown, also while the terminal is raw;
/// `None` without a terminal.
pub fn ask_secret(question: &str) -> Option<String> {
    let mut terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .ok()?;
    let before = termios::tcgetattr(&terminal).ok()?;
    let mut silent = before.clone();
    silent.input_modes |= InputModes::ICRNL;
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes |= LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
    termios::tcsetattr(&terminal, OptionalActions::Flush, &silent).ok()?;
    let answer = {
        // In case we are ended meanwhile.
        let _undo = Silence::begin(&before);
        terminal.write_all(question.as_bytes()).ok().and_then(|()| {
            let mut line = String::new();
            BufReader::new(&terminal).read_line(&mut line).ok()?;
            Some(line)
        })
    };
    let _ = termios::tcsetattr(&terminal, OptionalActions::Drain, &before);
    // At end of input nothing was answered.
    let answer = answer?;
    let line = answer.strip_suffix('\n')?;
    Some(line.trim_end_matches('\r').to_owned())
}

/// Settings to go back to, where there are none already.
struct Silence {
    ours: bool,
}

impl Silence {
    fn begin(before: &Termios) -> Self {
        let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = saved.is_none();
        if ours {
            *saved = Some(before.clone());
        }
        Self { ours }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if self.ours {
            SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// As many open files as we may have: connections take several each.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "open files");
    }
}

/// Whether a person sits at both ends.
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The window's size; 80 by 24 when the terminal does not say.
pub fn size() -> TtySize {
    let told = termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| termios::tcgetwinsize(std::io::stdin()));
    match told {
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
