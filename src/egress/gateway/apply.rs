//! Applies a state to a gateway: one command inside it takes the lock, reports
//! the present state and reads the new one.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, duplex};
use tokio::sync::mpsc;

use super::state_files::StateFiles;
use crate::model::{Capture, Error, ExecIo, ExecRequest, Guest, Result};

const SCRIPT: &str = include_str!("guest/apply.sh");
/// Includes the wait for other holders of the lock.
const DEADLINE: Duration = Duration::from_secs(120);
const BUFFER: usize = 64 * 1024;
/// Bytes of the line `ready`.
const READY_LIMIT: u64 = 64 * 1024;

/// What a gateway reports once the lock is held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayState {
    /// [`StateFiles::id`] of the state in force. Empty if there is none.
    pub applied: String,
    /// The next hop of the uplink. This is the server's host if the uplink is a
    /// bridge of the server.
    pub host: String,
    /// The gateway's address on the uplink.
    pub uplink: String,
    /// The name servers that the uplink announced.
    pub dns: Vec<String>,
}

impl GatewayState {
    pub(in crate::egress) fn parse(line: &str) -> Option<Self> {
        let mut state = Self::default();
        for field in line.trim().strip_prefix("ready")?.split_whitespace() {
            match field.split_once('=')? {
                ("applied", value) => state.applied = value.to_owned(),
                ("host", value) => state.host = value.to_owned(),
                ("uplink", value) => state.uplink = value.to_owned(),
                ("dns", value) => {
                    state.dns = value
                        .split(',')
                        .filter(|server| !server.is_empty())
                        .map(str::to_owned)
                        .collect();
                }
                _ => {}
            }
        }
        Some(state)
    }
}

/// Waits for the gateway's lock, calls `desired` and applies the state that it
/// returns. Changes nothing if that state is already in force.
///
/// `desired` runs with the lock held. If it or the gateway fails, or the future
/// is dropped, the present state remains in force. Fails with
/// `Error::TimedOut` after two minutes.
pub async fn apply_locked<F>(
    guest: &dyn Guest,
    desired: impl FnOnce(GatewayState) -> F,
) -> Result<()>
where
    F: Future<Output = Result<StateFiles>>,
{
    let (mut to_script, stdin) = duplex(BUFFER);
    let (stdout, from_script) = duplex(BUFFER);
    let output_head = Capture::default();
    let (_control, control) = mpsc::channel(1);
    let request = ExecRequest::root(["/bin/sh", "-c", SCRIPT, "gateway"]);
    let io = ExecIo {
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: Box::new(output_head.clone()),
        control,
    };
    let script = guest.exec(&request, io);
    // Owns the script's stdin: if this future ends early, the script gets end of
    // file and exits.
    let dialog = async move {
        let mut lines = BufReader::new(from_script);
        let mut line = String::new();
        let mut head = (&mut lines).take(READY_LIMIT);
        head.read_line(&mut line).await.map_err(stream_error)?;
        let Some(state) = GatewayState::parse(&line) else {
            // The exit status and stderr of the script have the reason.
            return Ok(());
        };
        let applied = state.applied.clone();
        let files = desired(state).await?;
        let text = if files.id() == applied {
            StateFiles::unchanged()
        } else {
            files.to_text()
        };
        // Fails if the script has exited, which its exit status explains.
        let _ = to_script.write_all(text.as_bytes()).await;
        let _ = to_script.shutdown().await;
        let mut rest = tokio::io::sink();
        tokio::io::copy(&mut lines, &mut rest)
            .await
            .map_err(stream_error)?;
        Ok::<(), Error>(())
    };
    let applying = async {
        let (status, dialog) = tokio::join!(script, dialog);
        dialog?;
        status
    };
    let status = tokio::time::timeout(DEADLINE, applying)
        .await
        .map_err(|_| Error::TimedOut {
            doing: "applying policies on the gateway".into(),
            after: DEADLINE,
        })??;
    if status.success() {
        return Ok(());
    }
    Err(Error::Guest {
        command: "applying policies on the gateway".into(),
        status: status.0,
        stderr: String::from_utf8_lossy(&output_head.take().head)
            .trim()
            .to_owned(),
    })
}

fn stream_error(error: std::io::Error) -> Error {
    Error::Protocol(format!("output of the gateway: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_line_may_have_empty_fields() {
        assert_eq!(
            GatewayState::parse("ready applied= host=10.0.0.1 uplink=10.0.0.9 dns=\n"),
            Some(GatewayState {
                host: "10.0.0.1".into(),
                uplink: "10.0.0.9".into(),
                ..GatewayState::default()
            })
        );
        assert_eq!(
            GatewayState::parse("ready applied=x host= uplink= dns=1.1.1.1,9.9.9.9").map(|r| r.dns),
            Some(vec!["1.1.1.1".into(), "9.9.9.9".into()])
        );
        assert_eq!(GatewayState::parse("sh: not found"), None);
    }
}
