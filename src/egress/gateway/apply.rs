//! Applies a state to a gateway with one command, which takes the gateway's
//! lock, reports the current state and reads the new state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, duplex};
use tokio::sync::mpsc;

use super::clients::PixelRecord;
use super::state_files::{END, StateFiles};
use crate::egress::domain::Domain;
use crate::model::{Capture, Error, ExecIo, ExecRequest, Guest, Result};

const SCRIPT: &str = include_str!("guest/apply.sh");
/// Time limit of the command, including the wait for the lock.
const DEADLINE: Duration = Duration::from_secs(120);
const BUFFER: usize = 64 * 1024;
/// Maximum length of the reported state, in bytes: far above that of the records
/// of 1000 pixels.
const REPORT_LIMIT: u64 = 64 * 1024 * 1024;

/// The state of a gateway, reported after the lock is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayState {
    /// The ID of the applied state, as [`StateFiles::to_text`] writes it. Empty if no
    /// state is applied.
    pub applied: String,
    /// The next hop of the uplink: the server's host, if the uplink is a bridge
    /// of the server.
    pub host: String,
    /// The gateway's address on the uplink.
    pub uplink: String,
    /// The name servers that the uplink announced.
    pub dns: Vec<String>,
    /// The domain that the uplink announced. May be empty.
    pub domain: String,
    /// The addresses of pixels with a provisioning lease.
    pub leases: BTreeSet<Ipv4Addr>,
    /// The records of the applied state, if they are known.
    pub pixels: Option<Vec<PixelRecord>>,
    /// The ports of the resolvers, by the ID of the policy.
    pub ports: BTreeMap<String, u16>,
}

impl GatewayState {
    pub(in crate::egress) fn parse(line: &str) -> Option<Self> {
        let mut state = Self::default();
        for field in line.trim().strip_prefix("ready")?.split_whitespace() {
            match field.split_once('=')? {
                ("applied", value) => state.applied = value.to_owned(),
                ("host", value) => state.host = value.to_owned(),
                ("uplink", value) => state.uplink = value.to_owned(),
                ("domain", value) => state.domain = value.to_owned(),
                ("dns", value) => {
                    state.dns = value
                        .split(',')
                        .filter(|server| !server.is_empty())
                        .map(str::to_owned)
                        .collect();
                }
                ("leases", value) => {
                    state.leases = value.split(',').flat_map(str::parse).collect();
                }
                _ => {}
            }
        }
        Some(state)
    }

    /// The announced domain, if it consists of one label, such as `lan`. Other
    /// domains may be public.
    pub(super) fn single_label_domain(&self) -> Option<Domain> {
        let domain = Domain::parse(&self.domain).ok()?;
        Some(domain).filter(|domain| !domain.as_str().contains('.'))
    }
}

/// Takes the gateway's lock, calls `desired` and applies the returned state after
/// the returned future. Changes nothing if that state is already applied.
///
/// `desired` and its future run while the lock is held. If one of them or the gateway
/// fails, or the future of this function is dropped, the current state remains
/// applied. Fails with `Error::TimedOut` after two minutes.
pub async fn apply_locked<F, R>(
    guest: &dyn Guest,
    desired: impl FnOnce(GatewayState) -> F,
) -> Result<()>
where
    F: Future<Output = Result<(StateFiles, R)>>,
    R: Future<Output = Result<()>>,
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
    // This block owns the script's stdin: if the future is dropped, the script
    // reads end of file and exits.
    let dialog = async move {
        let mut lines = BufReader::new(from_script);
        let report = read_report(&mut lines).await.map_err(stream_error)?;
        let Some(state) = report else {
            // The script's exit status and stderr contain the reason.
            return Ok(());
        };
        let applied = state.applied.clone();
        let (files, record) = desired(state).await?;
        let text = files.to_text(&applied);
        let text = text.strip_suffix(END).unwrap_or(&text);
        // A write fails only if the script has exited: its status is reported.
        let (_, recorded) = tokio::join!(to_script.write_all(text.as_bytes()), record);
        recorded?;
        let _ = to_script.write_all(END.as_bytes()).await;
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
    let command = "applying policies on the gateway";
    Err(Error::guest(command, status, &output_head.take().head))
}

/// Reads the state up to the line `==> end`. `None` if the script ends before.
async fn read_report(output: impl AsyncBufRead + Unpin) -> std::io::Result<Option<GatewayState>> {
    let mut lines = output.take(REPORT_LIMIT).lines();
    let Some(ready) = lines.next_line().await? else {
        return Ok(None);
    };
    let Some(mut state) = GatewayState::parse(&ready) else {
        return Ok(None);
    };
    let mut section = String::new();
    while let Some(line) = lines.next_line().await? {
        match (section.as_str(), line.strip_prefix("==> ")) {
            (_, Some("end")) => return Ok(Some(state)),
            (_, Some(name)) => {
                section = name.to_owned();
                if name == "pixels" {
                    state.pixels = Some(Vec::new());
                }
            }
            // One unreadable record makes all unknown.
            ("pixels", None) => match (&mut state.pixels, PixelRecord::parse(&line)) {
                (Some(known), Some(record)) => known.push(record),
                _ => state.pixels = None,
            },
            ("ports", None) => state.ports.extend(parse_port(&line)),
            _ => {}
        }
    }
    Ok(None)
}

/// Parses `ID:port=PORT`.
fn parse_port(line: &str) -> Option<(String, u16)> {
    let (id, port) = line.split_once(":port=")?;
    Some((id.to_owned(), port.parse().ok()?))
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
            GatewayState::parse(
                "ready applied= host=10.0.0.1 uplink=10.0.0.9 dns= domain= leases=\n"
            ),
            Some(GatewayState {
                host: "10.0.0.1".into(),
                uplink: "10.0.0.9".into(),
                ..GatewayState::default()
            })
        );
        assert_eq!(
            GatewayState::parse("ready applied=x dns=1.1.1.1,9.9.9.9 leases=10.98.0.5,10.98.0.7"),
            Some(GatewayState {
                applied: "x".into(),
                dns: vec!["1.1.1.1".into(), "9.9.9.9".into()],
                leases: [5, 7].map(|last| Ipv4Addr::new(10, 98, 0, last)).into(),
                ..GatewayState::default()
            })
        );
        assert_eq!(GatewayState::parse("sh: not found"), None);
    }

    #[test]
    fn only_single_label_domains_are_local() {
        for (announced, local) in [("lan", Some("lan")), ("corp.example", None), ("", None)] {
            let state = GatewayState {
                domain: announced.into(),
                ..GatewayState::default()
            };
            let domain = state.single_label_domain();
            assert_eq!(domain.as_ref().map(Domain::as_str), local, "{announced:?}");
        }
    }
}
