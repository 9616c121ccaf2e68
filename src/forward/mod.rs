//! Forwards local ports to ports in a pixel.
//!
//! Every connection is a command in the pixel that relays data between the
//! command's streams and the loopback interface. A forward therefore requires
//! only permission to run commands, but no address of the pixel and no route,
//! and works under every egress policy.

mod half_close;
mod port;
pub mod registry;

#[cfg(test)]
mod fuzz;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, repeat, select_all};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::model::{Error, ExecIo, ExecRequest, Guest, Result};

pub use port::Port;

const RELAY: &str = include_str!("guest/relay.sh");
const PERL: &str = include_str!("guest/relay.pl");
const PYTHON: &str = include_str!("guest/relay.py");
/// Exit codes of the relay.
const REFUSED: i32 = 111;
const NO_RELAY: i32 = 97;
/// Maximum number of connections that start a command at the same time.
const MAX_STARTING: usize = 16;
/// Time after which a command no longer counts as starting.
const START_TIME: Duration = Duration::from_millis(20);
/// Pause after a failure to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A local port that accepts connections.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    pub port: Port,
}

/// Opens all local ports on 127.0.0.1. The result contains a free port instead
/// of local port 0. Fails with [`Error::Io`] if any port cannot be opened, and
/// then closes all ports.
pub async fn listen(ports: &[Port]) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for port in ports {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.local));
        let failed = |e| Error::io(format!("cannot listen on {address}"), e);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?.port();
        listeners.push(Listener {
            listener,
            port: Port { local, ..*port },
        });
    }
    Ok(listeners)
}

/// Forwards connections until canceled. Calls `on_failure` with the port and the
/// cause for each connection that fails.
///
/// Fails with [`Error::Cancelled`] when canceled, with [`Error::NotFound`] when
/// the pixel is deleted, and with [`Error::Unsupported`] if the pixel has no
/// relay program. Dropping the future closes all connections on both sides.
pub async fn serve(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    listeners: &[Listener],
    on_failure: &(dyn Fn(Port, &str) + Sync),
) -> Result<()> {
    let starting = Semaphore::new(MAX_STARTING);
    let accepting = listeners
        .iter()
        .map(|listener| repeat(listener).then(accept));
    let mut accepted = select_all(accepting.map(Box::pin));
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            Some((stream, port)) = accepted.next() => {
                let starting = &starting;
                open.push(async move { (port, relay(guest, stream, port, starting).await) });
            }
            Some((port, ended)) = open.next() => match ended {
                Ok(()) => {}
                Err(error @ (Error::NotFound(_) | Error::Unsupported { .. })) => return Err(error),
                Err(error) => on_failure(port, &error.to_string()),
            },
        }
    }
}

/// Accepts a connection. Retries after a failure.
async fn accept(listener: &Listener) -> (TcpStream, Port) {
    loop {
        match listener.listener.accept().await {
            Ok((stream, _)) => return (stream, listener.port),
            // No file descriptor is free, or the client has already disconnected.
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Relays a connection until both directions have ended.
async fn relay(
    guest: &dyn Guest,
    stream: TcpStream,
    port: Port,
    starting: &Semaphore,
) -> Result<()> {
    let _ = stream.set_nodelay(true);
    let (from_client, to_client) = stream.into_split();
    let remote = port.remote.to_string();
    let request = ExecRequest::root(["/bin/sh", "-c", RELAY, "relay", &remote, PERL, PYTHON]);
    let (_open, control) = mpsc::channel(1);
    let (data, length) = half_close::writers(to_client);
    let io = ExecIo {
        stdin: Box::new(from_client),
        stdout: Box::new(data),
        stderr: Box::new(length),
        control,
    };
    let permit = starting.acquire().await;
    let running = guest.exec(&request, io);
    tokio::pin!(running);
    let status = tokio::select! {
        status = &mut running => status,
        () = tokio::time::sleep(START_TIME) => {
            drop(permit);
            running.await
        }
    };
    match status?.0 {
        REFUSED => Err(Error::Guest {
            command: format!("connect to port {remote}"),
            status: REFUSED,
            stderr: "connection refused: no program listens on the port".into(),
        }),
        NO_RELAY => Err(Error::Unsupported {
            operation: "forward".into(),
            reason: "the pixel needs perl, python3, socat or nc".into(),
        }),
        // The relay is also killed when the connection closes, which is not a failure.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::process::{Command, Stdio};

    use super::*;

    /// The server closes its direction first, and still receives data.
    fn half_close(program: &str, script: [&str; 2]) {
        if Command::new(program).arg("--version").output().is_err() {
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            stream.write_all(&[1; 200_000]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received.len()
        });
        let mut relay = Command::new(program)
            .args(script)
            .arg(&port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = relay.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 200_000]).unwrap();
        let (mut stderr, mut length) = (relay.stderr.take().unwrap(), [0; 7]);
        stderr.read_exact(&mut length).unwrap();
        assert_eq!(&length, b"200000\n", "{program}");
        let mut stdin = relay.stdin.take().unwrap();
        stdin.write_all(&[2; 300_000]).unwrap();
        drop(stdin);
        assert_eq!(serving.join().unwrap(), 300_000, "{program}");
        assert!(relay.wait().unwrap().success());
        let refused = Command::new(program)
            .args(script)
            .arg(port)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(REFUSED), "{program}");
    }

    #[test]
    fn relays_close_each_direction_separately() {
        half_close("perl", ["-e", PERL]);
        half_close("python3", ["-c", PYTHON]);
    }
}
