//! The built binary with a home of its own and no environment but what a test
//! gives it. Its pixels are called `t-…` and are gone when the test ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::wait::within;

pub const BINARY: &str = env!("CARGO_BIN_EXE_pixels");

pub struct TestEnv {
    home: TempDir,
    /// Pixels of this test begin with it.
    prefix: String,
    vars: BTreeMap<String, String>,
}

/// What one run of the binary did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl TestEnv {
    /// For a test that makes pixels; `test` is its short name.
    pub fn new(test: &str) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut env = Self::bare();
        env.prefix = format!("t-{test}-{}-{serial}", std::process::id());
        env
    }

    /// For a test that makes none.
    pub fn bare() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            prefix: String::new(),
            vars: BTreeMap::new(),
        }
    }

    /// A pixel's name that no other test uses.
    pub fn name(&self, short: &str) -> String {
        assert!(!self.prefix.is_empty(), "this environment makes no pixels");
        format!("{}-{short}", self.prefix)
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

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).env_clear();
        // Two versions of pixels that are tested side by side on one daemon
        // each need a gateway of their own.
        if let Some(bridge) = std::env::var_os("PIXELS_TEST_BRIDGE") {
            command.env("PIXELS_NETWORK_BRIDGE", bridge);
        }
        command
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // Most tests want a pixel, not one with packages installed.
            .env("PIXELS_PROVISION_ENABLED", "false")
            .envs(&self.vars)
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end without input.
    ///
    /// The tests have several daemons on one machine, and one of them can fail
    /// to make or to undo a bridge because an interface of another goes away at
    /// that moment. The way out that is named then is taken.
    #[must_use]
    pub fn pixels<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = self.command(args);
        let outcome = Outcome::of(command.output().unwrap());
        if !outcome.took_the_way_out() {
            return outcome;
        }
        Outcome::of(command.output().unwrap())
    }

    /// Runs to the end without input; a run that takes longer than `limit`
    /// hangs, and fails the test.
    #[track_caller]
    #[must_use]
    pub fn pixels_within<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Outcome {
        let mut child = self.spawn(args);
        drop(child.stdin.take());
        finished(child, limit)
    }

    /// Runs to the end with `input` on stdin.
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
            // A command that stops reading is part of some tests.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Outcome::of(output)
    }

    /// Starts it with all three streams piped.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Child {
        self.command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Names on the server that belong to this test.
    pub fn remaining(&self) -> Vec<String> {
        let outcome = self.pixels(["list", "--json"]);
        let pixels: Vec<serde_json::Value> =
            serde_json::from_str(&outcome.stdout).unwrap_or_default();
        pixels
            .iter()
            .filter_map(|pixel| pixel["name"].as_str())
            .filter(|name| name.starts_with(&self.prefix))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if self.prefix.is_empty() {
            return;
        }
        let names = self.remaining();
        if !names.is_empty() {
            let args = ["destroy".to_owned(), "--force".to_owned()];
            let _ = self.pixels(args.into_iter().chain(names));
        }
    }
}

/// Waits for a started run, which must not take longer than `limit`.
#[track_caller]
#[must_use]
pub fn finished(mut child: Child, limit: Duration) -> Outcome {
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reading = [
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.read_to_end(&mut bytes);
            bytes
        }),
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            bytes
        }),
    ];
    let mut status = None;
    let ended = within(limit, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    let [stdout, stderr] = reading.map(|reader| reader.join().unwrap());
    let Some(status) = status else {
        panic!(
            "still running after {limit:?}; stdout: {}; stderr: {}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
    };
    Outcome::of(Output {
        status,
        stdout,
        stderr,
    })
}

impl Outcome {
    fn of(output: Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: super::wait::code(output.status),
        }
    }

    /// Runs the command of the hint that names an interface in the way
    /// of a bridge; see [`TestEnv::pixels`].
    #[track_caller]
    pub fn took_the_way_out(&self) -> bool {
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

    /// Fails the test unless the run ended with `code`.
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

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.stdout))
    }

    /// The error of a run with `--json`: the only thing on stderr.
    #[track_caller]
    pub fn error(&self) -> serde_json::Value {
        let document: serde_json::Value = serde_json::from_str(&self.stderr)
            .unwrap_or_else(|e| panic!("not one JSON document ({e}): {}", self.stderr));
        document["error"].clone()
    }
}
