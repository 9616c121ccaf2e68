//! Commands on the host: displayed as shell text, or run with their output read
//! line by line.
//!
//! A command writes its output to an unnamed file that is read while the
//! command runs. With a pipe, SIGPIPE would interrupt a package installation if
//! the caller exits.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::process::Command;

use super::error::Error;
use super::packages::PROGRAM_DIRS;
use crate::model::shell_quote;

/// Interval between reads of a running command's output.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Number of last output lines kept for the error of a failed command.
const TAIL_LINES: usize = 20;
/// Environment variables that commands inherit. All others are removed: a
/// daemon that keeps running must not contain secrets of the user who started
/// pixels.
const INHERITED: &[&str] = &[
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

/// What happens to a running command when its future is dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// Sends SIGTERM to the command's process group.
    #[default]
    Terminate,
    /// The command keeps running. For package managers, which must not be
    /// interrupted.
    Finish,
}

/// A program, its arguments and additional environment variables.
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

    /// Returns the command with a minimal environment and empty stdin.
    pub(super) fn to_command(&self) -> Command {
        let inherited = INHERITED
            .iter()
            .filter_map(|name| std::env::var_os(name).map(|value| (*name, value)));
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", PROGRAM_DIRS.join(":"))
            .env("LC_ALL", "C.UTF-8")
            .envs(inherited)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }
}

/// Displays the command as typed in a shell.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", shell_quote(value))?;
        }
        f.write_str(&shell_quote(&self.program))?;
        for arg in &self.args {
            write!(f, " {}", shell_quote(arg))?;
        }
        Ok(())
    }
}

/// The exit status of a command and its last output lines.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub tail: Vec<String>,
}

/// Runs the command until it exits. Calls `on_line` with every line of stdout
/// and stderr, in order, at most [`POLL_INTERVAL`] after the line was written.
///
/// Fails with [`Error::Io`] if the command cannot be started. If the future is
/// dropped, [`CommandLine::on_drop`] applies.
pub async fn run(
    line: &CommandLine,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<Outcome, Error> {
    run_command(line, on_line)
        .await
        .map_err(|source| Error::io(format!("cannot run `{line}`"), source))
}

async fn run_command(
    line: &CommandLine,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> io::Result<Outcome> {
    let output = tempfile::NamedTempFile::new()?;
    let mut lines = LineSplitter::new(output.reopen()?);
    let append = || File::options().append(true).open(output.path());
    let mut command = line.to_command();
    command
        // Use a separate process group, so that Ctrl-C reaches only pixels.
        .process_group(0)
        .stdout(append()?)
        .stderr(append()?);
    let mut child = command.spawn()?;
    drop(output);
    let mut group = GroupKiller::new(child.id(), line.on_drop);
    let mut tail = Vec::new();
    let mut forward = |text: &str| {
        if tail.len() == TAIL_LINES {
            tail.remove(0);
        }
        tail.push(text.to_owned());
        on_line(text);
    };
    let status = loop {
        tokio::select! {
            exited = child.wait() => break exited?,
            () = tokio::time::sleep(POLL_INTERVAL) => lines.read(&mut forward)?,
        }
    };
    group.disarm();
    lines.read(&mut forward)?;
    lines.finish(&mut forward);
    Ok(Outcome { status, tail })
}

/// Runs the command of `step` like [`run`]. Fails with [`Error::Command`]
/// unless the exit code is 0.
pub async fn run_checked(
    step: &str,
    line: &CommandLine,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Error> {
    let outcome = run(line, on_line).await?;
    if outcome.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        step: step.to_owned(),
        command: line.to_string(),
        status: outcome.status.code(),
        output: outcome.tail,
    })
}

/// Sends SIGTERM to the command's process group when dropped, unless disarmed.
struct GroupKiller(Option<Pid>);

impl GroupKiller {
    fn new(id: Option<u32>, on_drop: OnDrop) -> Self {
        let pid = id
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Self(pid.filter(|_| on_drop == OnDrop::Terminate))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for GroupKiller {
    fn drop(&mut self) {
        if let Some(pid) = self.0
            && let Err(error) = kill_process_group(pid, Signal::TERM)
        {
            tracing::debug!(%error, "cannot terminate a command's process group");
        }
    }
}

/// Splits a growing file into lines. Carriage returns, as in progress displays,
/// also end a line.
struct LineSplitter<R> {
    source: R,
    partial: Vec<u8>,
}

impl<R: Read> LineSplitter<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            partial: Vec::new(),
        }
    }

    fn read(&mut self, on_line: &mut dyn FnMut(&str)) -> io::Result<()> {
        self.source.read_to_end(&mut self.partial)?;
        while let Some(end) = self.partial.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            emit(&line[..end], on_line);
        }
        Ok(())
    }

    fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        emit(&std::mem::take(&mut self.partial), on_line);
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
