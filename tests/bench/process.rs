//! Runs processes and measures their duration.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Finds a program in `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A program with a fixed environment, independent of the user's variables.
#[derive(Clone, Default)]
pub struct Program {
    pub path: PathBuf,
    pub home: PathBuf,
    /// The Incus project of all commands.
    pub project: Option<String>,
    /// The isolated bridge of the program's pixels.
    pub bridge: Option<String>,
    /// Value of `PIXELS_NETWORK_PLACEMENT`, if not the default.
    pub placement: Option<&'static str>,
}

impl Program {
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("HOME", &self.home)
            // Provisioning in the background would distort the results.
            .env("PIXELS_PROVISION_ENABLED", "false")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for name in ["INCUS_SOCKET", "INCUS_DIR", "PIXELS_DEFAULT_IMAGE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(project) = &self.project {
            // pixels and incus read different variables.
            command.env("PIXELS_INCUS_PROJECT", project);
            command.env("INCUS_PROJECT", project);
        }
        if let Some(bridge) = &self.bridge {
            command.env("PIXELS_NETWORK_BRIDGE", bridge);
        }
        if let Some(placement) = self.placement {
            command.env("PIXELS_NETWORK_PLACEMENT", placement);
        }
        command
    }

    /// Runs the program without input and discards the output.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Duration> {
        let (took, _, _) = timed(self.command(words))?;
        Ok(took)
    }

    /// Runs the program and returns its stdout.
    pub fn output(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).stdout(Stdio::piped()).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {}", stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Pipes `file` into the program. Fails unless it prints `expected`.
    pub fn fed(&self, words: &[&str], file: &Path, expected: &str) -> Result<Duration> {
        let mut command = self.command(words);
        command.stdin(File::open(file)?).stdout(Stdio::piped());
        let (took, _, printed) = timed(command)?;
        ensure!(printed.trim() == expected, "{words:?} printed {printed}");
        Ok(took)
    }

    /// Runs the program. Fails unless its output has `bytes` bytes.
    pub fn drained(&self, words: &[&str], bytes: usize) -> Result<Duration> {
        let mut command = self.command(words);
        command.stdout(Stdio::piped());
        let (took, count, _) = timed(command)?;
        ensure!(count == bytes, "{words:?} printed {count} bytes");
        Ok(took)
    }
}

/// Runs a command. Returns the time from spawn to exit, the size of the output
/// in bytes, and the start of the output.
fn timed(mut command: Command) -> Result<(Duration, usize, String)> {
    let begun = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("{:?}", command.get_program()))?;
    let (mut count, mut start) = (0, Vec::new());
    if let Some(mut stdout) = child.stdout.take() {
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            match stdout.read(&mut buffer)? {
                0 => break,
                n => {
                    count += n;
                    if start.len() < 64 {
                        start.extend_from_slice(&buffer[..n.min(64)]);
                    }
                }
            }
        }
    }
    let status = child.wait()?;
    let took = begun.elapsed();
    if !status.success() {
        let mut printed = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            // Used only in the error message below.
            let _ = stderr.read_to_string(&mut printed);
        }
        bail!("{command:?} ended with {status}: {}", printed.trim());
    }
    Ok((took, count, String::from_utf8_lossy(&start).into_owned()))
}
