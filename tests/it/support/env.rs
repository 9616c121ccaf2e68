//! Runs the built binary with a temporary home directory and the environment of
//! the test. Deletes the test's pixels (`t-…`) at the end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_pixels");

pub struct TestEnv {
    home: TempDir,
    /// Name prefix of this test's pixels.
    prefix: String,
    vars: BTreeMap<String, String>,
    /// The environment of the shared pixel, if this test uses that pixel.
    shared: Option<Arc<TestEnv>>,
}

/// The result of one run of the binary.
#[derive(Debug, Default)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl TestEnv {
    /// An environment for a test that creates pixels. `test` is its short name.
    pub fn new(test: &str) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut env = Self::bare();
        env.prefix = format!("t-{test}-{}-{serial}", std::process::id());
        env
    }

    /// An environment for a test without pixels.
    pub fn bare() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            prefix: String::new(),
            vars: BTreeMap::new(),
            shared: None,
        }
    }

    /// The name of a running pixel that several tests share, to save boots.
    /// These tests must not change the pixel in a way that affects other tests.
    /// The last test deletes the pixel.
    pub fn shared_pixel(&mut self) -> String {
        static SHARED: Mutex<Weak<TestEnv>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = shared.upgrade().unwrap_or_else(|| {
            let owner = Self::new("shared");
            owner.create("a");
            Arc::new(owner)
        });
        *shared = Arc::downgrade(&owner);
        self.shared.insert(owner).name("a")
    }

    /// A unique pixel name.
    pub fn name(&self, short: &str) -> String {
        assert!(!self.prefix.is_empty(), "this environment has no pixels");
        format!("{}-{short}", self.prefix)
    }

    /// Creates a pixel and returns its unique name.
    #[track_caller]
    pub fn create(&self, short: &str) -> String {
        let name = self.name(short);
        self.pixels(["create", &name]).ok();
        name
    }

    pub fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.vars.insert(key.into(), value.into());
        self
    }

    /// Writes the user's configuration file.
    pub fn config(&self, text: &str) -> &Self {
        let dir = self.home.path().join(".config/pixels");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.toml"), text).unwrap();
        self
    }

    /// Runs a shell script in a pixel and returns what it prints.
    #[track_caller]
    pub fn sh(&self, name: &str, script: &str) -> String {
        let run = self.pixels(["exec", name, "--", "sh", "-c", script]);
        run.ok().stdout
    }

    /// The row of a pixel in `list`.
    #[track_caller]
    pub fn listed(&self, name: &str) -> serde_json::Value {
        let all = self.pixels(["list", "--json"]).ok().json();
        let row = all.as_array().unwrap().iter().find(|it| it["name"] == name);
        row.unwrap_or_else(|| panic!("no {name} in {all}")).clone()
    }

    #[track_caller]
    pub fn checkpoint(&self, name: &str, label: &str) {
        let args = ["checkpoint", "create", name, "--label", label];
        self.pixels(args).ok();
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.program(BINARY, args)
    }

    /// A command for another program, with the same environment variables.
    pub fn program<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear();
        // Two versions of pixels that are tested on one daemon at the same time
        // need separate gateways.
        if let Some(bridge) = std::env::var_os("PIXELS_TEST_BRIDGE") {
            command.env("PIXELS_NETWORK_BRIDGE", bridge);
        }
        command
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // Most tests need no installed packages.
            .env("PIXELS_PROVISION_ENABLED", "false")
            .envs(&self.vars)
            .stdin(Stdio::null());
        command
    }

    /// Runs pixels without input and waits for the exit.
    ///
    /// Tests run several daemons on one machine. A daemon can fail to create or
    /// delete a bridge if an interface of another daemon disappears just then.
    /// In this case, runs the command of the error's hint and retries once.
    #[must_use]
    pub fn pixels<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = self.command(args);
        let outcome = Outcome::from(command.output().unwrap());
        if !outcome.deletes_named_interface() {
            return outcome;
        }
        Outcome::from(command.output().unwrap())
    }

    /// Runs pixels without input. Panics if the run takes longer than `limit`.
    #[track_caller]
    #[must_use]
    pub fn pixels_within<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Outcome {
        finished(self.start(args), limit)
    }

    /// Runs pixels with `input` on stdin and waits for the exit.
    #[must_use]
    pub fn pixels_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Outcome {
        let mut child = self.spawn(args);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // In some tests the command stops reading.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Outcome::from(output)
    }

    /// Starts pixels with stdin, stdout and stderr piped.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Child {
        spawn(self.command(args).stdin(Stdio::piped()))
    }

    /// Starts pixels without input.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Child {
        spawn(&mut self.command(args))
    }

    /// Names of all pixels on the server. Empty if the server does not answer.
    pub fn list(&self) -> Vec<String> {
        let outcome = self.pixels(["list", "--json"]);
        let pixels: Vec<serde_json::Value> =
            serde_json::from_str(&outcome.stdout).unwrap_or_default();
        pixels
            .iter()
            .filter_map(|pixel| pixel["name"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// Names of this test's pixels on the server.
    pub fn remaining(&self) -> Vec<String> {
        let mut names = self.list();
        names.retain(|name| name.starts_with(&self.prefix));
        names
    }

    /// Runs `prune`. Returns the deleted or listed items, sorted, as `pixel
    /// NAME`, `gateway NAME` or `checkpoint LABEL of NAME`.
    #[track_caller]
    #[must_use]
    pub fn prune(&self, options: &[&str]) -> Vec<String> {
        let args = [&["prune", "--json"], options].concat();
        let rows = self.pixels(args).ok().json();
        let rows = rows.as_array().unwrap().iter().map(|row| {
            let name = row["name"].as_str().unwrap();
            match row["kind"].as_str() {
                Some(kind @ ("pixel" | "gateway")) => format!("{kind} {name}"),
                _ => format!("checkpoint {} of {name}", row["label"].as_str().unwrap()),
            }
        });
        let mut names: Vec<String> = rows.collect();
        names.sort();
        names
    }

    /// Destroys pixels without confirmation. Does nothing if `names` is empty.
    #[must_use]
    pub fn destroy(&self, names: Vec<String>) -> Outcome {
        if names.is_empty() {
            return Outcome::default();
        }
        let command = ["destroy", "--force"].map(str::to_owned);
        self.pixels(command.into_iter().chain(names))
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if !self.prefix.is_empty() {
            let _ = self.destroy(self.remaining());
        }
    }
}

/// Starts a command with stdout and stderr piped.
pub fn spawn(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the exit of a started run, whose input stays open as on a terminal.
/// Kills the process and panics after `limit`.
#[track_caller]
#[must_use]
pub fn finished(mut child: Child, limit: Duration) -> Outcome {
    let _stdin = child.stdin.take();
    let pid = Pid::from_child(&child);
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output().unwrap()));
    if let Ok(output) = receive.recv_timeout(limit) {
        return Outcome::from(output);
    }
    let _ = kill_process(pid, Signal::KILL);
    let outcome = Outcome::from(receive.recv().unwrap());
    panic!("still running after {limit:?}: {outcome:?}");
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let outcome = Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: super::wait::code(output.status),
        };
        assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
        outcome
    }
}

impl Outcome {
    /// Runs the command of the error's hint if that command deletes an
    /// interface. Returns whether the command ran; see [`TestEnv::pixels`].
    #[track_caller]
    pub fn deletes_named_interface(&self) -> bool {
        let Some((_, rest)) = self.stderr.split_once("run on the host: `ip link delete ") else {
            return false;
        };
        let interface = rest.split('`').next().unwrap();
        let removed = Command::new("ip")
            .args(["link", "delete", interface])
            .status();
        assert!(removed.unwrap().success(), "{}", self.stderr);
        true
    }

    /// Panics unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect(0)
    }

    /// Panics unless stderr contains `text`.
    #[track_caller]
    pub fn reports(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in {self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is not JSON ({e}): {}", self.stdout))
    }

    /// Parses each line of stdout as JSON.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The error of a run with `--json`. Panics if stderr has other output.
    #[track_caller]
    pub fn error(&self) -> serde_json::Value {
        let document: serde_json::Value = serde_json::from_str(&self.stderr)
            .unwrap_or_else(|e| panic!("stderr is not one JSON document ({e}): {}", self.stderr));
        document["error"].clone()
    }
}
