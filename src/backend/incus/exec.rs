//! Commands: one operation, its stream sockets, and the exit code.
//!
//! Protocol facts (Incus 6.0, observed): the command starts once sockets 0, 1
//! and 2 are connected, on a terminal 0 and `control`; an empty *text* frame
//! ends a stream in either direction; the sockets then close without a
//! handshake; an interactive command's operation ends only after the client has
//! closed socket 0; exit codes 126 and 127 arrive as operation errors; every
//! socket is sent a ping, and one whose stream has ended is closed without
//! waiting for the answer.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Method;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::client::{Client, encode};
use super::error::Failure;
use super::exec_streams::{discard, drain, feed, feed_channel, forward, forward_control, split};
use super::messages::Meaning;
use super::operation::Running;
use super::websocket::{CHUNK, Receiver, SMALL, upgrade};
use super::wire::Operation;
use crate::model::{ExecIo, ExecRequest, ExitStatus};

/// Deadline for connecting the sockets. The daemon itself waits five seconds.
const CONNECT: Duration = Duration::from_secs(10);
/// A prepared command older than this may be forgotten before its sockets are
/// connected.
const FRESH: Duration = Duration::from_secs(3);
/// After truncated output, the operation shows the cause within this time.
const CAUSE: Duration = Duration::from_secs(2);

/// A command that the daemon has prepared. It starts when its streams are
/// connected, and never if this is dropped before.
pub(super) struct PreparedExec {
    running: Running,
    secrets: Secrets,
    prepared_at: Instant,
}

impl PreparedExec {
    /// Whether the daemon may have forgotten the command, as it does if the
    /// streams are not connected in time.
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
        secrets: Secrets::parse(running.metadata())?,
        running,
        prepared_at,
    })
}

/// Runs a prepared command; the contract is that of
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
    let id = running.id().to_owned();
    let path = |secret: &str| {
        client.scoped(&format!(
            "/1.0/operations/{id}/websocket?secret={}",
            encode(secret)
        ))
    };
    let sending = async |secret: &str| {
        let stream = client.transport().connect().await?;
        upgrade(client, stream, &path(secret), SMALL).await
    };
    let receiving = async |secret: &str| {
        let stream = Box::new(Receiver(client.transport().connect().await?));
        upgrade(client, stream, &path(secret), CHUNK).await
    };
    let connecting = async {
        let first = async {
            match &secrets.output {
                None => Ok(None),
                Some((out, err)) => {
                    let (out, err) = tokio::try_join!(receiving(out), receiving(err))?;
                    Ok(Some((out, err)))
                }
            }
        };
        let input = async {
            match &secrets.output {
                None => receiving(&secrets.input).await,
                Some(_) => sending(&secrets.input).await,
            }
        };
        let control = async {
            match (sending(&secrets.control).await, &secrets.output) {
                (Ok(control), _) => Ok(Some(control)),
                // Without a terminal the daemon does not wait for this socket, and
                // rejects it if a short command has already ended.
                (Err(Failure::Api { message, .. }), Some(_)) => {
                    tracing::debug!(message, "control");
                    Ok(None)
                }
                (Err(failure), _) => Err(failure),
            }
        };
        tokio::try_join!(input, control, first)
    };
    let (input, control, output) = match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected?,
        Err(_) => {
            return Err(Failure::TimedOut {
                doing: "connecting the command's streams".into(),
                after: CONNECT,
            });
        }
    };
    let ended = CancellationToken::new();
    let wait = async {
        let outcome = running.finish().await;
        ended.cancel();
        outcome
    };
    let (input_tx, input_rx) = input.split();
    let (control_tx, control_rx) = control.map(WebSocketStream::split).unzip();
    let ExecIo {
        stdin,
        stdout,
        stderr,
        control: commands,
    } = io;
    let steering = async {
        tokio::join!(forward_control(control_tx, commands), discard(control_rx));
        std::future::pending::<()>().await;
    };

    match output {
        Some((out, err)) => {
            let feeding = async {
                tokio::join!(feed(stdin, input_tx), discard(Some(input_rx)));
                std::future::pending::<()>().await;
            };
            let draining = async {
                tokio::try_join!(
                    drain(split(out), stdout, &ended),
                    drain(split(err), stderr, &ended)
                )
                .map(drop)
            };
            tokio::select! {
                status = join_exit_and_output(wait, draining) => status,
                () = feeding => unreachable!("feeding never ends by itself"),
                () = steering => unreachable!("steering never ends by itself"),
            }
        }
        None => {
            // One socket carries both directions, so both close it.
            let (to_guest, from_user) = mpsc::channel::<Message>(4);
            let writing = forward(from_user, input_tx);
            let hang_up = to_guest.clone();
            let feeding = feed_channel(stdin, to_guest);
            let draining = async {
                let end = drain((None, input_rx), stdout, &ended).await;
                let _ = hang_up.send(Message::Close(None)).await;
                end
            };
            tokio::select! {
                status = join_exit_and_output(wait, draining) => status,
                ((), ()) = async {
                    tokio::join!(feeding, writing);
                    std::future::pending().await
                } => unreachable!("feeding never ends by itself"),
                () = steering => unreachable!("steering never ends by itself"),
            }
        }
    }
}

/// Waits for all output and returns the exit code. Truncated output fails at
/// once, even if the command continues; a failure of the operation explains more
/// and wins if it arrives in time.
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
            .and_then(serde_json::Value::as_i64)
            .and_then(|code| i32::try_from(code).ok())
            .map(ExitStatus)
            .ok_or_else(|| Failure::Protocol("the command ended without an exit code".into())),
        Err(failure) => match failure.meaning() {
            // Also if the command itself exited with this code.
            Some(Meaning::CommandNotFound) => Ok(ExitStatus(127)),
            Some(Meaning::CommandNotExecutable) => Ok(ExitStatus(126)),
            _ => Err(failure),
        },
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Body<'a> {
    command: &'a [String],
    wait_for_websocket: bool,
    interactive: bool,
    environment: &'a std::collections::BTreeMap<String, String>,
    user: u32,
    group: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u16>,
}

fn body(request: &ExecRequest) -> Body<'_> {
    Body {
        command: &request.argv,
        wait_for_websocket: true,
        interactive: request.tty.is_some(),
        environment: &request.env,
        user: request.owner.uid,
        group: request.owner.gid,
        cwd: request.cwd.as_deref(),
        width: request.tty.map(|size| size.columns),
        height: request.tty.map(|size| size.rows),
    }
}

pub(super) struct Secrets {
    input: String,
    /// `None` on a terminal, whose input socket carries both directions.
    output: Option<(String, String)>,
    control: String,
}

impl Secrets {
    pub fn parse(metadata: &serde_json::Value) -> Result<Self, Failure> {
        let fd = |name: &str| {
            metadata
                .get("fds")
                .and_then(|fds| fds.get(name))
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned)
        };
        let need = |name: &str| {
            fd(name).ok_or_else(|| Failure::Protocol(format!("exec offers no stream {name:?}")))
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

    fn exit_status_of(metadata: serde_json::Value) -> Result<Operation, Failure> {
        Ok(serde_json::from_value(serde_json::json!({
            "id": "x", "status_code": 200, "metadata": metadata
        }))
        .unwrap())
    }

    #[test]
    fn missing_exit_code_is_a_protocol_failure() {
        assert!(matches!(
            exit_status(exit_status_of(serde_json::json!({}))),
            Err(Failure::Protocol(_))
        ));
        assert!(matches!(
            exit_status(exit_status_of(serde_json::json!({"return": null}))),
            Err(Failure::Protocol(_))
        ));
        assert_eq!(
            exit_status(exit_status_of(serde_json::json!({"return": 7}))).unwrap(),
            ExitStatus(7)
        );
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
        let plain = Secrets::parse(&serde_json::json!({
            "fds": {"0": "a", "1": "b", "2": "c", "control": "d"}
        }))
        .unwrap();
        assert!(plain.output.is_some());
        let tty = Secrets::parse(&serde_json::json!({"fds": {"0": "a", "control": "d"}})).unwrap();
        assert!(tty.output.is_none());
        assert!(Secrets::parse(&serde_json::json!({"fds": {"0": "a"}})).is_err());
    }
}
