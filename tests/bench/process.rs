//! Whole processes, spawned and timed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// A program on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A program with the same environment in every run and none of the user's.
#[derive(Clone, Default)]
pub struct Program {
    pub path: PathBuf,
    pub home: PathBuf,
    /// The Incus project it works in.
    pub project: Option<String>,
    /// The bridge of its pixels behind a gateway.
    pub bridge: Option<String>,
    /// Where pixels are put, in place of the default.
    pub placement: Option<&'static str>,
}

impl Program {
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("HOME", &self.home)
            // The pixels it measures are as the image made them, and the
            // settings of their owner say so.
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
            // Each program reads its own.
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

    /// Runs to the end, without input and without anyone to read the output.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Duration> {
        let (took, _, _) = timed(self.command(words))?;
        Ok(took)
    }

    /// What it prints.
    pub fn output(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).stdout(Stdio::piped()).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {}", stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs with `file` as input; it must print `expected`.
    pub fn fed(&self, words: &[&str], file: &Path, expected: &str) -> Result<Duration> {
        let mut command = self.command(words);
        command.stdin(File::open(file)?).stdout(Stdio::piped());
        let (took, _, printed) = timed(command)?;
        ensure!(printed.trim() == expected, "{words:?} printed {printed}");
        Ok(took)
    }

    /// Runs and drains its output, which must be `bytes` long.
    pub fn drained(&self, words: &[&str], bytes: usize) -> Result<Duration> {
        let mut command = self.command(words);
        command.stdout(Stdio::piped());
        let (took, count, _) = timed(command)?;
        ensure!(count == bytes, "{words:?} printed {count} bytes");
        Ok(took)
    }
}

/// Returns the time from before the command is spawned until it has ended, the
/// bytes of its output, and the beginning of that.
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
            // Only for the message below.
            let _ = stderr.read_to_string(&mut printed);
        }
        bail!("{command:?} ended with {status}: {}", printed.trim());
    }
    Ok((took, count, String::from_utf8_lossy(&start).into_owned()))
}
