//! Commands in a sandbox: those that a call waits for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::service::{Service, not_running};
use super::state::Status;
use super::truncate::HeadTail;
use crate::lifecycle::{self, ExecOptions, SignalSource, User};
use crate::model::{self, Control, Name, Subject};

const SIGTERM: i32 = 15;

/// A command as a client gives it.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub argv: Vec<String>,
    pub cwd: Option<String>,
    pub env: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct ExecOutput {
    /// Of the command; 124 when it ran into its time limit, 127 when there is no
    /// such command, 128+N when signal N ended it.
    pub exit_code: i32,
    /// Its beginning and its end when it is long.
    pub stdout: String,
    pub stderr: String,
    /// Something in the middle of stdout was left out, where the text says so.
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
    /// What the command printed in all.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// It ran into its time limit and was killed.
    pub timed_out: bool,
    /// The connection to the sandbox failed; the command may still run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_error: Option<String>,
}

impl Command {
    pub(super) fn check(&self) -> Result<()> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid(
                "command is empty: give the program and its arguments, such as \
                 [\"sh\", \"-c\", \"ls | wc -l\"]",
            ));
        }
        let texts = self.argv.iter().chain(&self.cwd);
        let pairs = self.env.iter().flat_map(|(key, value)| [key, value]);
        if texts.chain(pairs).any(|text| text.contains('\0')) {
            return Err(Error::invalid("no argument may contain a NUL character"));
        }
        for key in self.env.keys() {
            let sound = !key.is_empty()
                && !key.starts_with(|c: char| c.is_ascii_digit())
                && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !sound || key.starts_with("PIXELS_EXEC_") {
                return Err(Error::invalid(format!(
                    "env {key:?}: a variable's name consists of letters, digits and _"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn exec(self, login: User, timeout: Option<Duration>) -> ExecOptions {
        ExecOptions {
            argv: self.argv,
            login,
            env: self.env,
            cwd: self.cwd,
            tty: None,
            timeout,
        }
    }
}

impl Service {
    /// Runs a command to its end, or until `cancel`, the time limit, or a call
    /// that needs the sandbox for itself: then it is killed with all it started.
    pub async fn exec(
        &self,
        name: &str,
        command: Command,
        stdin: Vec<u8>,
        timeout: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<ExecOutput> {
        command.check()?;
        let token = self.lock_of(name)?.token();
        let (record, pixel, _shared) = self.lock_for_use(name).await?;
        if record.status != Status::Running {
            return Err(not_running(&record));
        }
        self.touch(name);
        let most = self.options.exec_timeout_max;
        let limit = timeout.map_or(most, |limit| limit.min(most));
        let login = self.login(&pixel).await?;
        let request = command.exec(login, Some(limit));
        let guest = self.backend.guest(&pixel);
        let (stdout, stderr) = (HeadTail::default(), HeadTail::default());
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
            SignalSource { events },
        );
        tokio::pin!(running);
        let outcome = tokio::select! {
            outcome = &mut running => outcome,
            reason = self.interrupted(cancel, &token) => {
                let _ = signals.try_send(Control::Signal(SIGTERM));
                let _ = running.await;
                self.touch(name);
                return Err(Error::Interrupted(reason));
            }
        };
        self.touch(name);
        let (code, timed_out, transport_error) = match outcome {
            Ok(ended) => (ended.status.0, ended.timed_out, None),
            Err(error @ (model::Error::WrongState { .. } | model::Error::NotFound(_))) => {
                return Err(error.into());
            }
            Err(error) => (125, false, Some(error.to_string())),
        };
        let (stdout, stderr) = (stdout.take(), stderr.take());
        Ok(ExecOutput {
            exit_code: code,
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

    /// Whom commands and files in it belong to. Refuses what must not be
    /// worked in.
    pub(super) async fn login(&self, pixel: &Name) -> Result<User> {
        let instance = self.backend.get(pixel).await?;
        if instance.privileged {
            return Err(model::Error::Unsupported {
                operation: format!("work in {}", Subject::pixel(pixel)),
                reason: "it is privileged: root in it is root on the server".into(),
            }
            .into());
        }
        Ok(User::default_for(&instance))
    }

    /// Why work must end before it is done.
    pub(super) async fn interrupted(
        &self,
        cancel: &CancellationToken,
        token: &CancellationToken,
    ) -> &'static str {
        tokio::select! {
            () = cancel.cancelled() => "the client gave up, and the command was ended",
            () = token.cancelled() => {
                "another call stops, restores or destroys the sandbox, and the command was ended"
            }
            () = self.stopping().cancelled() => "the server ends, and so did the command",
        }
    }
}
