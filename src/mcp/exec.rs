//! Runs commands in a sandbox and waits until they exit.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::service::Service;
use super::truncate::{self, Truncated};
use crate::lifecycle::{self, ExecOptions, User};
use crate::model::{self, Control, Name};

const SIGTERM: i32 = 15;

/// Models often send a shell command line: the error shows the correct form.
fn argv<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Vec::deserialize(deserializer).map_err(|_| {
        D::Error::custom(
            "command must be a list of the program and its arguments, such as \
             [\"ls\", \"-l\"] or [\"sh\", \"-c\", \"ls | wc -l\"]",
        )
    })
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecArgs {
    /// Name of the sandbox.
    name: String,
    /// The program and its arguments. No shell is involved: for pipes, globs and
    /// variables use ["sh", "-c", "..."].
    #[serde(deserialize_with = "argv")]
    command: Vec<String>,
    /// Working directory, by default the user's home.
    cwd: Option<String>,
    /// Environment variables to set.
    env: Option<BTreeMap<String, String>>,
    /// Standard input of the command.
    stdin: Option<String>,
    /// Kill the command after this many seconds; the server limits the value.
    timeout_sec: Option<i64>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartArgs {
    /// Name of the sandbox.
    pub name: String,
    /// The program and its arguments, as for exec.
    #[serde(deserialize_with = "argv")]
    pub command: Vec<String>,
    /// Working directory, by default the user's home.
    pub cwd: Option<String>,
    /// Environment variables to set.
    pub env: Option<BTreeMap<String, String>>,
}

/// A command that is valid as the arguments of a process.
#[derive(Debug)]
pub struct Command {
    pub argv: Vec<String>,
    cwd: Option<String>,
    pub env: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct ExecOutput {
    /// Exit code of the command; 124 if it timed out, 127 if it was not found,
    /// 128+N if signal N ended it.
    pub exit_code: i32,
    /// Long output is shortened to its beginning and end.
    pub stdout: String,
    pub stderr: String,
    /// The middle of stdout is missing; a marker in the text shows where.
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
    /// Length of the whole output.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// The command timed out and was killed.
    pub timed_out: bool,
    /// The connection to the sandbox failed; the command may still be running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_error: Option<String>,
}

impl Command {
    /// Fails if the command is empty or a process cannot be started with it.
    pub fn new(
        argv: Vec<String>,
        cwd: Option<String>,
        env: Option<BTreeMap<String, String>>,
    ) -> Result<Self> {
        let env = env.unwrap_or_default();
        if argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid(
                "command is empty: pass the program and its arguments, such as \
                 [\"sh\", \"-c\", \"ls | wc -l\"]",
            ));
        }
        let texts = argv
            .iter()
            .chain(&cwd)
            .chain(env.keys())
            .chain(env.values());
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(Error::invalid(
                "command, cwd and env must not contain NUL characters",
            ));
        }
        let is_valid = |key: &&String| model::is_env_name(key) && !key.starts_with("PIXELS_EXEC_");
        if let Some(key) = env.keys().find(|key| !is_valid(key)) {
            return Err(Error::invalid(format!(
                "env {key:?}: use a name of letters, digits and _"
            )));
        }
        Ok(Self { argv, cwd, env })
    }

    pub(super) fn into_options(self, login: User, timeout: Duration) -> ExecOptions {
        ExecOptions {
            argv: self.argv,
            user: login,
            env: self.env,
            cwd: self.cwd,
            tty: None,
            timeout: Some(timeout),
        }
    }
}

impl Service {
    /// Runs a command and returns its output. The command is killed with all
    /// its processes on `cancel`, on timeout, and if another call interrupts
    /// the sandbox.
    pub async fn exec(&self, args: ExecArgs, cancel: &CancellationToken) -> Result<ExecOutput> {
        let name = args.name.as_str();
        let command = Command::new(args.command, args.cwd, args.env)?;
        let interrupt = self.lock_of(name)?.token();
        let (pixel, user, _guard) = self.lock_running(name).await?;
        let seconds = args.timeout_sec.and_then(|it| u64::try_from(it).ok());
        let max = self.config.exec_timeout_max;
        let timeout = match seconds {
            None | Some(0) => max,
            Some(seconds) => max.min(Duration::from_secs(seconds)),
        };
        let request = command.into_options(user, timeout);
        let guest = self.backend.guest(&pixel);
        let (stdout, stderr) = (truncate::capture(), truncate::capture());
        let (signals, events) = mpsc::channel(4);
        let running = lifecycle::exec(
            &*guest,
            &request,
            None,
            (
                Box::new(std::io::Cursor::new(args.stdin.unwrap_or_default())),
                Box::new(stdout.clone()),
                Box::new(stderr.clone()),
            ),
            events,
        );
        tokio::pin!(running);
        let outcome = tokio::select! {
            outcome = &mut running => outcome,
            reason = self.interrupted(cancel, &interrupt) => {
                let _ = signals.try_send(Control::Signal(SIGTERM));
                let _ = running.await;
                self.touch(name);
                return Err(Error::Interrupted(reason));
            }
        };
        self.touch(name);
        let (exit_code, timed_out, transport_error) = match outcome {
            Ok(result) => (result.status.0, result.timed_out, None),
            Err(error @ (model::Error::WrongState { .. } | model::Error::NotFound(_))) => {
                return Err(error.into());
            }
            Err(error) => (125, false, Some(truncate::text(error.to_string()))),
        };
        let (stdout, stderr) = (
            Truncated::from(stdout.take()),
            Truncated::from(stderr.take()),
        );
        Ok(ExecOutput {
            exit_code,
            timed_out,
            stdout_truncated: stdout.truncated,
            stderr_truncated: stderr.truncated,
            stdout_bytes: stdout.total,
            stderr_bytes: stderr.total,
            stdout: stdout.text,
            stderr: stderr.text,
            transport_error,
        })
    }

    /// Returns the user that runs commands and owns new files. Fails for a
    /// privileged pixel.
    pub(super) async fn guest_user(&self, pixel: &Name) -> Result<User> {
        let instance = self.backend.get(pixel).await?;
        lifecycle::ensure_unprivileged(&instance)?;
        Ok(User::default_for(&instance))
    }

    /// Waits until a command must be interrupted, and returns the reason.
    async fn interrupted(
        &self,
        cancel: &CancellationToken,
        interrupt: &CancellationToken,
    ) -> &'static str {
        tokio::select! {
            () = cancel.cancelled() => "the client canceled the call; the command was killed",
            () = interrupt.cancelled() => {
                "another call stops, restores or destroys the sandbox; the command was killed"
            }
            () = self.stopping().cancelled() => "the server is stopping; the command was killed",
        }
    }
}
