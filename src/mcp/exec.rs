//! Runs commands in a sandbox while the call waits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::service::Service;
use super::truncate::{self, Truncated};
use crate::lifecycle::{self, ExecOptions, User};
use crate::model::{self, Control, Name};

const SIGTERM: i32 = 15;

/// A command as requested by a client.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub argv: Vec<String>,
    pub cwd: Option<String>,
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
    /// Fails if the command is empty or cannot be passed to a process.
    pub(super) fn check(&self) -> Result<()> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid(
                "command is empty: pass the program and its arguments, such as \
                 [\"sh\", \"-c\", \"ls | wc -l\"]",
            ));
        }
        let texts = self.argv.iter().chain(&self.cwd);
        let pairs = self.env.iter().flat_map(|(key, value)| [key, value]);
        if texts.chain(pairs).any(|text| text.contains('\0')) {
            return Err(Error::invalid(
                "command, cwd and env must not contain NUL characters",
            ));
        }
        for key in self.env.keys() {
            if !model::is_env_name(key) || key.starts_with("PIXELS_EXEC_") {
                return Err(Error::invalid(format!(
                    "env {key:?}: use a name of letters, digits and _"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn into_options(self, login: User, timeout: Option<Duration>) -> ExecOptions {
        ExecOptions {
            argv: self.argv,
            user: login,
            env: self.env,
            cwd: self.cwd,
            tty: None,
            timeout,
        }
    }
}

impl Service {
    /// Runs a command and returns its output. On `cancel`, on timeout, and when
    /// another call interrupts the sandbox, the command is killed with all
    /// processes it started.
    pub async fn exec(
        &self,
        name: &str,
        command: Command,
        stdin: Vec<u8>,
        timeout: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<ExecOutput> {
        command.check()?;
        let interrupt = self.lock_of(name)?.token();
        let (pixel, _guard) = self.lock_running(name).await?;
        let max = self.config.exec_timeout_max;
        let timeout = timeout.map_or(max, |timeout| timeout.min(max));
        let user = self.guest_user(&pixel).await?;
        let request = command.into_options(user, Some(timeout));
        let guest = self.backend.guest(&pixel);
        let (stdout, stderr) = (truncate::capture(), truncate::capture());
        let (signals, events) = mpsc::channel(4);
        let running = lifecycle::exec(
            &*guest,
            &request,
            None,
            (
                Box::new(std::io::Cursor::new(stdin)),
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
            Err(error) => (125, false, Some(error.to_string())),
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

    /// Returns the user that commands run as and new files belong to. Fails for
    /// a privileged pixel.
    pub(super) async fn guest_user(&self, pixel: &Name) -> Result<User> {
        let instance = self.backend.get(pixel).await?;
        lifecycle::ensure_unprivileged(&instance)?;
        Ok(User::default_for(&instance))
    }

    /// Waits until work must be interrupted, and returns the reason.
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
