//! Records the terminal picture in README: types the commands of `session.txt`
//! into a shell, which runs them on this machine's Incus daemon. The picture
//! keeps their timing.
//!
//! ```text
//! cargo run --example picture -- [BINARY]
//! ```
//!
//! BINARY is the `pixels` binary to record, by default `target/debug/pixels`.
//! The recording uses a separate Incus project and gateway, created before and
//! deleted afterwards. Pixels are not provisioned, so nothing is downloaded.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

#[path = "svg.rs"]
mod svg;

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use svg::Recording;

const SESSION: &str = include_str!("session.txt");
const COLUMNS: NonZeroU16 = NonZeroU16::new(88).unwrap();
const ROWS: NonZeroU16 = NonZeroU16::new(60).unwrap();
const PROJECT: &str = "px-picture";
const BRIDGE: &str = "pxpicture0";
/// Variable that recorded commands inherit from this program.
const IMAGE: &str = "PIXELS_DEFAULT_IMAGE";
/// Invisible end of each prompt: the shell waits for a command.
const READY: &str = "\x1b]9;ready\x07";
/// Timeout for one command of the session.
const LIMIT: Duration = Duration::from_secs(60);
const KEY: Duration = Duration::from_millis(35);
/// Pause after each command, for the reader.
const PAUSE: Duration = Duration::from_millis(900);

fn main() -> ExitCode {
    match picture() {
        Ok(file) => {
            println!("{}", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("picture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn picture() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary = match std::env::args_os().nth(1) {
        Some(given) => PathBuf::from(given),
        None => here.join("target/debug/pixels"),
    };
    let binary = binary
        .canonicalize()
        .with_context(|| binary.display().to_string())?;
    let stage = Stage::set(&binary)?;
    let recorded = record(&stage);
    let cleared = stage.clear();
    let recording = recorded?;
    cleared?;
    let file = here.join("tests/picture/quickstart.svg");
    let title =
        "Terminal recording: create a pixel, checkpoint it, fork it, break it and restore it";
    std::fs::write(&file, recording.svg(COLUMNS.get().into(), title))?;
    Ok(file)
}

/// The environment of the recording.
struct Stage {
    home: tempfile::TempDir,
    binary: PathBuf,
}

impl Stage {
    fn set(binary: &Path) -> Result<Self> {
        let features = ["images", "profiles", "storage.volumes", "storage.buckets"];
        let mut project = Command::new("incus");
        project.args(["project", "create", PROJECT]);
        for feature in features {
            project.args(["--config", &format!("features.{feature}=false")]);
        }
        finished(&mut project)?;
        let stage = Self {
            home: tempfile::tempdir()?,
            binary: binary.to_owned(),
        };
        std::os::unix::fs::symlink(binary, stage.home.path().join("pixels"))?;
        // The first pixel also creates the gateway, which takes a while.
        for words in [&["create", "first"][..], &["destroy", "--force", "first"]] {
            if let Err(error) = finished(&mut stage.pixels(words)) {
                let _ = stage.clear();
                return Err(error);
            }
        }
        Ok(stage)
    }

    fn pixels(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", format!("{}:{path}", self.home.path().display()))
            .env("TERM", "xterm-256color")
            .env("PIXELS_INCUS_PROJECT", PROJECT)
            .env("PIXELS_NETWORK_BRIDGE", BRIDGE)
            .env("PIXELS_PROVISION_ENABLED", "false");
        if let Some(image) = std::env::var_os(IMAGE) {
            command.env(IMAGE, image);
        }
    }

    fn clear(&self) -> Result<()> {
        let list = self.pixels(&["list", "--json"]).output()?;
        let pixels: Vec<serde_json::Value> = serde_json::from_slice(&list.stdout)?;
        let mut all = vec!["destroy", "--force"];
        all.extend(pixels.iter().filter_map(|pixel| pixel["name"].as_str()));
        if all.len() > 2 {
            finished(&mut self.pixels(&all))?;
        }
        finished(&mut self.pixels(&["network", "gateway", "remove"]))?;
        finished(Command::new("incus").args(["project", "delete", PROJECT]))
    }
}

fn finished(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    Ok(())
}

/// A shell on a terminal, and its output.
struct Shell {
    child: Child,
    keyboard: File,
    output: Receiver<Vec<u8>>,
}

impl Shell {
    fn start(stage: &Stage) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(ptsname(&master, Vec::new())?, flags, Mode::empty())?;
        tcsetwinsize(
            &master,
            Winsize {
                ws_col: COLUMNS.get(),
                ws_row: ROWS.get(),
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?;
        let mut shell = Command::new("setsid");
        shell.args(["--ctty", "bash", "--norc", "--noprofile", "-i"]);
        stage.environment(&mut shell);
        std::fs::write(
            stage.home.path().join(".inputrc"),
            "set enable-bracketed-paste off\n",
        )?;
        let child = shell
            .env("PS1", "\\[\\e[1;32m\\]$\\[\\e[0m\\] \\[\\e]9;ready\\a\\]")
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal)
            .spawn()?;
        let keyboard = File::from(master);
        let mut shown = keyboard.try_clone()?;
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = shown.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            keyboard,
            output,
        })
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(stage: &Stage) -> Result<Recording> {
    let mut shell = Shell::start(stage)?;
    let mut film = Film {
        begun: Instant::now(),
        terminal: vt100::Parser::new(ROWS, COLUMNS, 0),
        recording: Recording::default(),
        tail: Vec::new(),
    };
    film.until_ready(&shell)?;
    film.begun = Instant::now();
    for command in SESSION.lines() {
        film.wait(&shell, PAUSE)?;
        for key in command.chars() {
            write!(shell.keyboard, "{key}")?;
            film.wait(&shell, KEY)?;
        }
        shell.keyboard.write_all(b"\r")?;
        film.until_ready(&shell)
            .with_context(|| command.to_owned())?;
    }
    Ok(film.recording)
}

struct Film {
    begun: Instant,
    terminal: vt100::Parser,
    recording: Recording,
    /// Output since the last prompt, searched for [`READY`].
    tail: Vec<u8>,
}

impl Film {
    /// Records for `time`.
    fn wait(&mut self, shell: &Shell, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while self.frame(shell, end)? {}
        Ok(())
    }

    fn until_ready(&mut self, shell: &Shell) -> Result<()> {
        let end = Instant::now() + LIMIT;
        self.tail.clear();
        let ready = |shown: &[u8]| {
            shown
                .windows(READY.len())
                .any(|part| part == READY.as_bytes())
        };
        while !ready(&self.tail) {
            if !self.frame(shell, end)? {
                let shown = String::from_utf8_lossy(&self.tail);
                bail!("timed out after {LIMIT:?}: {shown:?}");
            }
        }
        Ok(())
    }

    /// Records the next output. Returns false if none arrives before `end`.
    fn frame(&mut self, shell: &Shell, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        match shell.output.recv_timeout(left) {
            Ok(bytes) => {
                self.tail.extend_from_slice(&bytes);
                self.terminal.process(&bytes);
                let screen = self.terminal.screen();
                self.recording.note(self.begun.elapsed(), screen);
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!("the shell exited"),
        }
    }
}
