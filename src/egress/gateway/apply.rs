//! One turn at a gateway: wait for its lock, learn what it has in force, and
//! put something else into force, in one command inside it.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, duplex};
use tokio::sync::mpsc;

use super::state_files::StateFiles;
use crate::model::{Error, ExecIo, ExecRequest, Guest, HeadBuffer, Result};

const SCRIPT: &str = include_str!("guest/apply.sh");
/// For all who were before us, and for our own turn.
const DEADLINE: Duration = Duration::from_secs(120);
const BUFFER: usize = 64 * 1024;
/// Of the line that says that it is our turn.
const LINE: u64 = 64 * 1024;

/// What a gateway says when it is our turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayState {
    /// [`Payload::id`] of what is in force; empty for nothing.
    pub applied: String,
    /// The next hop of its uplink: the server's host, where that is a bridge of the server's.
    pub host: String,
    /// Its own address on the uplink.
    pub uplink: String,
    /// The resolvers its uplink announced.
    pub dns: Vec<String>,
}

impl GatewayState {
    pub(in crate::egress) fn parse(line: &str) -> Option<Self> {
        let mut ready = Self::default();
        for field in line.trim().strip_prefix("ready")?.split_whitespace() {
            match field.split_once('=')? {
                ("applied", value) => ready.applied = value.to_owned(),
                ("host", value) => ready.host = value.to_owned(),
                ("uplink", value) => ready.uplink = value.to_owned(),
                ("dns", value) => {
                    ready.dns = value
                        .split(',')
                        .filter(|server| !server.is_empty())
                        .map(str::to_owned)
                        .collect();
                }
                _ => {}
            }
        }
        Some(ready)
    }
}

/// Waits for the gateway's lock, asks `make` what should be in force and puts
/// that there; nothing is changed when it is in force already.
///
/// `make` runs while nobody else changes the gateway. When it or the gateway
/// fails, or the future is dropped, what was in force stays.
pub async fn apply_locked<F>(guest: &dyn Guest, make: impl FnOnce(GatewayState) -> F) -> Result<()>
where
    F: Future<Output = Result<StateFiles>>,
{
    let (mut to_script, stdin) = duplex(BUFFER);
    let (stdout, from_script) = duplex(BUFFER);
    let output_head = HeadBuffer::default();
    let (_control, control) = mpsc::channel(1);
    let request = ExecRequest::root(["/bin/sh", "-c", SCRIPT, "gateway"]);
    let io = ExecIo {
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: Box::new(output_head.clone()),
        control,
    };
    let script = guest.exec(&request, io);
    // Moved in, so that dropping it closes the script's stdin: one whose turn
    // came to nothing ends.
    let talk = async move {
        let mut lines = BufReader::new(from_script);
        let mut line = String::new();
        let mut head = (&mut lines).take(LINE);
        head.read_line(&mut line).await.map_err(stream_error)?;
        let Some(ready) = GatewayState::parse(&line) else {
            // Why, its end and what it wrote to stderr say.
            return Ok(());
        };
        let applied = ready.applied.clone();
        let payload = make(ready).await?;
        let text = if payload.id() == applied {
            StateFiles::unchanged()
        } else {
            payload.to_text()
        };
        // One that has ended takes no more; its exit status tells.
        let _ = to_script.write_all(text.as_bytes()).await;
        let _ = to_script.shutdown().await;
        let mut rest = tokio::io::sink();
        tokio::io::copy(&mut lines, &mut rest)
            .await
            .map_err(stream_error)?;
        Ok::<(), Error>(())
    };
    let applying = async {
        let (status, talked) = tokio::join!(script, talk);
        talked?;
        status
    };
    let status = tokio::time::timeout(DEADLINE, applying)
        .await
        .map_err(|_| Error::TimedOut {
            doing: "the gateway's turn".into(),
            after: DEADLINE,
        })??;
    if status.success() {
        return Ok(());
    }
    Err(Error::Guest {
        command: "the gateway's rules".into(),
        status: status.0,
        stderr: String::from_utf8_lossy(&output_head.take())
            .trim()
            .to_owned(),
    })
}

fn stream_error(error: std::io::Error) -> Error {
    Error::Protocol(format!("the gateway's answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_allowed() {
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
