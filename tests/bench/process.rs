//! Whole processes, spawned and timed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A program on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A program with the same environment in every run and none of the user's.
#[derive(Clone)]
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
    pub fn command(&self, words: &[&str]) -> Command {
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
    pub fn run(&self, words: &[&str]) -> Result<Duration> {
        timed(self.command(words), Expect::Success)
    }

    /// What it prints.
    pub fn output(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).stdout(Stdio::piped()).output()?;
        if !output.status.success() {
            bail!(
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs with `file` as input; it must print `expected`.
    pub fn fed(&self, words: &[&str], file: &Path, expected: &str) -> Result<Duration> {
        let mut command = self.command(words);
        command.stdin(File::open(file)?).stdout(Stdio::piped());
        timed(command, Expect::Text(expected))
    }

    /// Runs and drains its output, which must be `bytes` long.
    pub fn drained(&self, words: &[&str], bytes: usize) -> Result<Duration> {
        let mut command = self.command(words);
        command.stdout(Stdio::piped());
        timed(command, Expect::Bytes(bytes))
    }
}

enum Expect<'a> {
    Success,
    Text(&'a str),
    Bytes(usize),
}

fn timed(mut command: Command, expect: Expect<'_>) -> Result<Duration> {
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
    let right = match expect {
        Expect::Success => true,
        Expect::Text(text) => String::from_utf8_lossy(&start).trim() == text,
        Expect::Bytes(bytes) => count == bytes,
    };
    if !status.success() || !right {
        let mut printed = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            // Only for the message below.
            let _ = stderr.read_to_string(&mut printed);
        }
        bail!(
            "{:?} ended with {status} and {count} bytes: {}",
            command.get_args().collect::<Vec<_>>(),
            printed.trim()
        );
    }
    Ok(took)
}
