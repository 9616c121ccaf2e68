//! One command of the host: shown, or run with its output as lines.
//!
//! Output goes to an unnamed file that is read while the command runs, never
//! through a pipe: a package installation whose caller has gone must not die
//! of it half-way.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::process::Command;

use super::packages::PROGRAM_DIRS;

/// How often a running command's output is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Lines kept for the message when the command fails.
const TAIL: usize = 20;
/// The caller's variables a command may need. Nothing else is passed on: a
/// daemon that stays must not keep the secrets of whoever started it.
const PASSED: &[&str] = &[
    "HOME",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// What becomes of a command whose caller gives up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// It is asked to end, with everything it has started.
    #[default]
    Terminate,
    /// It runs on to its end: the package manager must not be interrupted.
    Finish,
}

/// A program, its arguments and the variables set for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandLine {
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    #[serde(skip)]
    pub on_drop: OnDrop,
}

impl CommandLine {
    pub fn new<I, S>(program: impl Into<String>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            on_drop: OnDrop::default(),
        }
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn finish_when_dropped(mut self) -> Self {
        self.on_drop = OnDrop::Finish;
        self
    }

    /// The command with a clean environment and no input.
    pub(super) fn prepare(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", PROGRAM_DIRS.join(":"))
            .env("LC_ALL", "C.UTF-8")
            .envs(
                PASSED
                    .iter()
                    .filter_map(|name| std::env::var_os(name).map(|value| (*name, value))),
            )
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }
}

/// As it would be typed in a shell.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quote(value))?;
        }
        f.write_str(&quote(&self.program))?;
        for arg in &self.args {
            write!(f, " {}", quote(arg))?;
        }
        Ok(())
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// How a command ended, and what it said last.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub tail: Vec<String>,
}

/// Runs the command to its end and hands every line of output on as it comes.
pub async fn run(
    line: &CommandLine,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> io::Result<Outcome> {
    let output = tempfile::NamedTempFile::new()?;
    let mut lines = Lines::new(output.reopen()?);
    let mut command = line.prepare();
    command
        // A group of its own: Ctrl-C reaches the caller alone.
        .process_group(0)
        .stdout(output.reopen_append()?)
        .stderr(output.reopen_append()?);
    let mut child = command.spawn()?;
    drop(output);
    let mut group = Group::of(child.id(), line.on_drop);
    let mut tail = Vec::new();
    let mut hand_on = |text: &str| {
        if tail.len() == TAIL {
            tail.remove(0);
        }
        tail.push(text.to_owned());
        on_line(text);
    };
    let status = loop {
        tokio::select! {
            ended = child.wait() => break ended?,
            () = tokio::time::sleep(LOOK) => lines.read(&mut hand_on)?,
        }
    };
    group.ended();
    lines.read(&mut hand_on)?;
    lines.finish(&mut hand_on);
    Ok(Outcome { status, tail })
}

trait Append {
    fn reopen_append(&self) -> io::Result<File>;
}

impl Append for tempfile::NamedTempFile {
    fn reopen_append(&self) -> io::Result<File> {
        File::options().append(true).open(self.path())
    }
}

/// Ends the command's process group when dropped before the command has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(id: Option<u32>, on_drop: OnDrop) -> Self {
        let pid = id
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Self(pid.filter(|_| on_drop == OnDrop::Terminate))
    }

    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0
            && let Err(error) = kill_process_group(pid, Signal::TERM)
        {
            tracing::debug!(%error, "could not end a command's process group");
        }
    }
}

/// Splits what has been written to a file so far into lines; a carriage
/// return ends one too, as progress displays use it.
struct Lines<R> {
    from: R,
    rest: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            rest: Vec::new(),
        }
    }

    fn read(&mut self, on_line: &mut dyn FnMut(&str)) -> io::Result<()> {
        self.from.read_to_end(&mut self.rest)?;
        while let Some(end) = self.rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            emit(&line[..end], on_line);
        }
        Ok(())
    }

    fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        emit(&std::mem::take(&mut self.rest), on_line);
    }
}

fn emit(line: &[u8], on_line: &mut dyn FnMut(&str)) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if !text.is_empty() {
        on_line(text);
    }
}

#[cfg(test)]
mod tests;
