//! Runs commands: an operation, its stream sockets, and the exit code.
//!
//! Protocol facts (observed on Incus 6.0): A command without a terminal starts
//! when sockets 0, 1 and 2 are connected. A command on a terminal needs sockets
//! 0 and `control`. An empty *text* frame ends a stream in either direction.
//! The sockets close without a handshake. The operation of an interactive
//! command ends only after the client has closed socket 0. Exit codes 126 and
//! 127 are operation errors. The daemon pings every socket, but closes a
//! finished stream without waiting for the pong, which it does not require.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::client::{Client, encode};
use super::error::Failure;
use super::exec_streams::{discard, drain, feed, forward_control, split};
use super::messages::Meaning;
use super::operation::Running;
use super::websocket::{CHUNK, Receiver, SMALL, upgrade};
use super::wire::Operation;
use crate::backend::tls::ByteStream;
use crate::model::{ExecIo, ExecRequest, ExitStatus};

/// Deadline for connecting the sockets. The daemon's own deadline is 5 seconds.
const CONNECT: Duration = Duration::from_secs(10);
/// Age after which the daemon may have forgotten a prepared command whose
/// sockets are not connected.
const FRESH: Duration = Duration::from_secs(3);
/// How long to wait for the operation's error after truncated output.
const CAUSE: Duration = Duration::from_secs(2);

/// A command that the daemon has prepared. The command starts when its streams
/// are connected, and never starts if this value is dropped earlier.
pub(super) struct PreparedExec {
    running: Running,
    secrets: Secrets,
    prepared_at: Instant,
}

impl PreparedExec {
    /// Whether the daemon may have forgotten the command because its streams were
    /// not connected in time.
    pub fn is_stale(&self) -> bool {
        self.prepared_at.elapsed() > FRESH
    }
}

/// Sends a command for `instance` to the daemon.
pub(super) async fn prepare(
    client: &Client,
    instance: &str,
    request: &ExecRequest,
) -> Result<PreparedExec, Failure> {
    let path = format!("/1.0/instances/{}/exec", encode(instance));
    let prepared_at = Instant::now();
    let running = client.start(Method::POST, &path, &body(request)).await?;
    Ok(PreparedExec {
        secrets: Secrets::parse(&running.operation.metadata)?,
        running,
        prepared_at,
    })
}

/// Runs a prepared command with the contract of
/// [`Guest::exec`](crate::model::Guest::exec).
pub(super) async fn run(
    client: &Client,
    prepared: PreparedExec,
    io: ExecIo,
) -> Result<ExitStatus, Failure> {
    let PreparedExec {
        mut running,
        secrets,
        ..
    } = prepared;
    let is_terminal = secrets.output.is_none();
    let path = |secret: &str| {
        let id = &running.operation.id;
        let secret = encode(secret);
        client.scoped(&format!("/1.0/operations/{id}/websocket?secret={secret}"))
    };
    let open = async |secret: &str, has_output: bool| {
        let stream = client.transport().connect().await?;
        let (stream, buffer): (Box<dyn ByteStream>, _) = match has_output {
            true => (Box::new(Receiver::new(stream, is_terminal)), CHUNK),
            false => (stream, SMALL),
        };
        upgrade(client, stream, &path(secret), buffer).await
    };
    let connecting = async {
        let output = async {
            match &secrets.output {
                None => Ok(None),
                Some((out, err)) => tokio::try_join!(open(out, true), open(err, true)).map(Some),
            }
        };
        let control = async {
            match open(&secrets.control, false).await {
                Ok(control) => Ok(Some(control)),
                // Without a terminal, the daemon does not wait for this socket, and rejects the
                // socket after a short command has ended.
                Err(Failure::Api { message, .. }) if !is_terminal => {
                    tracing::debug!(message, "control");
                    Ok(None)
                }
                Err(failure) => Err(failure),
            }
        };
        tokio::try_join!(open(&secrets.input, is_terminal), control, output)
    };
    let connected = tokio::time::timeout(CONNECT, connecting).await;
    let doing = "connecting the command's streams";
    let (input, control, output) =
        connected.unwrap_or_else(|_| Err(Failure::timed_out(doing, CONNECT)))?;
    let (mut input, input_rx) = input.split();
    let (control_tx, control_rx) = control.map(WebSocketStream::split).unzip();
    let ended = CancellationToken::new();
    let wait = async {
        let outcome = running.finish().await;
        ended.cancel();
        outcome
    };
    let (output, errors, unused) = match output {
        Some((out, err)) => (split(out), Some(split(err)), Some(input_rx)),
        // On a terminal, one socket carries both directions.
        None => ((None, input_rx), None, None),
    };
    let hang_up = CancellationToken::new();
    let draining = async {
        let errors = async {
            match errors {
                Some(errors) => drain(errors, io.stderr, &ended).await,
                None => Ok(()),
            }
        };
        let outcome = tokio::try_join!(drain(output, io.stdout, &ended), errors);
        if is_terminal {
            hang_up.cancel();
        }
        outcome.map(drop)
    };
    let feeding = async {
        tokio::select! {
            () = feed(io.stdin, &mut input, is_terminal) => hang_up.cancelled().await,
            () = hang_up.cancelled() => {}
        }
        let _ = input.send(Message::Close(None)).await;
    };
    let background = async {
        tokio::join!(
            feeding,
            discard(unused),
            forward_control(control_tx, io.control),
            discard(control_rx)
        );
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        status = join_exit_and_output(wait, draining) => status,
        never = background => match never {},
    }
}

/// Waits for all output and returns the exit code. Truncated output is an
/// error, even if the command continues. An error of the operation is more
/// specific, and replaces the output error if reported in time.
async fn join_exit_and_output(
    wait: impl Future<Output = Result<Operation, Failure>>,
    draining: impl Future<Output = Result<(), Failure>>,
) -> Result<ExitStatus, Failure> {
    tokio::pin!(wait, draining);
    tokio::select! {
        outcome = &mut wait => {
            let status = exit_status(outcome)?;
            draining.await?;
            Ok(status)
        }
        output = &mut draining => match output {
            Ok(()) => exit_status(wait.await),
            Err(cut) => {
                if let Ok(outcome) = tokio::time::timeout(CAUSE, wait).await {
                    exit_status(outcome)?;
                }
                Err(cut)
            }
        },
    }
}

pub(super) fn exit_status(outcome: Result<Operation, Failure>) -> Result<ExitStatus, Failure> {
    match outcome {
        Ok(operation) => operation
            .metadata
            .get("return")
            .and_then(Value::as_i64)
            .and_then(|code| i32::try_from(code).ok())
            .map(ExitStatus)
            .ok_or_else(|| Failure::protocol("the command ended without an exit code")),
        Err(failure) => match failure.meaning() {
            // Applies even if the command itself exited with this code.
            Some(Meaning::CommandNotFound) => Ok(ExitStatus(127)),
            Some(Meaning::CommandNotExecutable) => Ok(ExitStatus(126)),
            _ => Err(failure),
        },
    }
}

fn body(request: &ExecRequest) -> Value {
    json!({
        "command": request.argv,
        "wait-for-websocket": true,
        "interactive": request.tty.is_some(),
        "environment": request.env,
        "user": request.owner.uid,
        "group": request.owner.gid,
        "cwd": request.cwd,
        "width": request.tty.map(|size| size.columns),
        "height": request.tty.map(|size| size.rows),
    })
}

pub(super) struct Secrets {
    input: String,
    /// `None` with a terminal, where the input socket carries both directions.
    output: Option<(String, String)>,
    control: String,
}

impl Secrets {
    pub fn parse(metadata: &Value) -> Result<Self, Failure> {
        let fd = |name: &str| {
            metadata
                .get("fds")
                .and_then(|fds| fds.get(name))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let need = |name: &str| {
            fd(name).ok_or_else(|| Failure::protocol(format!("exec offers no stream {name:?}")))
        };
        Ok(Self {
            input: need("0")?,
            output: fd("1").zip(fd("2")),
            control: need("control")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Error;

    #[test]
    fn missing_exit_code_is_a_protocol_failure() {
        let status = |metadata: Value| {
            let operation = json!({"id": "x", "status_code": 200, "metadata": metadata});
            exit_status(Ok(serde_json::from_value(operation).unwrap()))
        };
        for missing in [json!({}), json!({"return": null})] {
            let outcome = status(missing);
            assert!(matches!(outcome, Err(Failure::Other(Error::Protocol(_)))));
        }
        assert_eq!(status(json!({"return": 7})).unwrap(), ExitStatus(7));
    }

    #[test]
    fn operation_errors_become_exit_codes_126_and_127() {
        for (message, code) in [("Command not found", 127), ("Command not executable", 126)] {
            let error = Failure::Api {
                code: 400,
                message: message.into(),
            };
            assert_eq!(exit_status(Err(error)).unwrap(), ExitStatus(code));
        }
    }

    #[test]
    fn secrets_without_output_mean_a_terminal() {
        let parse = |streams: Value| Secrets::parse(&json!({"fds": streams}));
        let plain = parse(json!({"0": "a", "1": "b", "2": "c", "control": "d"}));
        assert!(plain.unwrap().output.is_some());
        let terminal = parse(json!({"0": "a", "control": "d"}));
        assert!(terminal.unwrap().output.is_none());
        assert!(parse(json!({"0": "a"})).is_err());
    }
}
