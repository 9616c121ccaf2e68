//! Ports on this machine's loopback that lead to ports on a pixel's own. Each
//! connection is a command in the pixel: it needs no address, no route and no
//! permission but that of running commands, and works behind any wall.

mod half_close;
mod port;
pub mod registry;

#[cfg(test)]
#[path = "../../tests/fuzz/forward.rs"]
mod fuzz;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::model::{Error, ExecIo, ExecRequest, Guest, Result};

pub use port::Port;

const RELAY: &str = include_str!("guest/relay.sh");
const PERL: &str = include_str!("guest/relay.pl");
const PYTHON: &str = include_str!("guest/relay.py");
const REFUSED: i32 = 111;
const NO_RELAY: i32 = 97;
/// Connections that are being made at the same time; others wait their turn.
const AT_ONCE: usize = 16;

/// A port that is listened on.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    pub port: Port,
}

/// Listens on all ports, or on none. Where port 0 was asked for, the port that
/// was found is in the result.
pub async fn listen(ports: &[Port]) -> Result<Vec<Listening>> {
    let mut all = Vec::new();
    for port in ports {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.local));
        let failed = |e| Error::io(format!("listening on {address}"), e);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?.port();
        all.push(Listening {
            listener,
            port: Port { local, ..*port },
        });
    }
    Ok(all)
}

/// Carries connections until cancelled, or until the pixel is gone. Dropping
/// the future ends all of them, on both sides. `failed` is told of connections
/// that came to nothing.
pub async fn serve(
    guest: &dyn Guest,
    cancel: &CancellationToken,
    listening: &[Listening],
    failed: &(dyn Fn(Port, &str) + Sync),
) -> Result<()> {
    let starting = Arc::new(Semaphore::new(AT_ONCE));
    let (accepted, mut arrivals) = mpsc::channel(AT_ONCE);
    let accepting: FuturesUnordered<_> = listening
        .iter()
        .map(|one| accept(one, accepted.clone()))
        .collect();
    let mut accepting = accepting.fuse();
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            Some(ended) = accepting.next() => ended?,
            Some((stream, port)) = arrivals.recv() => {
                let starting = Arc::clone(&starting);
                open.push(async move { (port, carry(guest, stream, port, &starting).await) });
            }
            Some((port, ended)) = open.next() => match ended {
                Ok(()) => {}
                Err(error @ (Error::NotFound(_) | Error::Unsupported { .. })) => return Err(error),
                Err(error) => failed(port, &error.to_string()),
            },
        }
    }
}

async fn accept(one: &Listening, accepted: mpsc::Sender<(TcpStream, Port)>) -> Result<()> {
    loop {
        match one.listener.accept().await {
            Ok((stream, _)) => {
                if accepted.send((stream, one.port)).await.is_err() {
                    return Ok(());
                }
            }
            // Out of file descriptors, or a client that left at once: the
            // others go on, and this listener after a moment.
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection to its end.
async fn carry(
    guest: &dyn Guest,
    stream: TcpStream,
    port: Port,
    starting: &Semaphore,
) -> Result<()> {
    let _ = stream.set_nodelay(true);
    let (from_user, to_user) = stream.into_split();
    let remote = port.remote.to_string();
    let request = ExecRequest::root(["/bin/sh", "-c", RELAY, "relay", &remote, PERL, PYTHON]);
    let (_steer, control) = mpsc::channel(1);
    let (data, word) = half_close::ends(to_user);
    let io = ExecIo {
        stdin: Box::new(from_user),
        stdout: Box::new(data),
        stderr: Box::new(word),
        control,
    };
    let turn = starting.acquire().await;
    let running = guest.exec(&request, io);
    tokio::pin!(running);
    // The pixel answers a little later; by then the next one may begin.
    let status = tokio::select! {
        status = &mut running => status,
        () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {
            drop(turn);
            running.await
        }
    };
    match status?.0 {
        REFUSED => Err(Error::Guest {
            command: format!("a connection to port {remote}"),
            status: REFUSED,
            stderr: "nothing listens there".into(),
        }),
        NO_RELAY => Err(Error::Unsupported {
            operation: "forward".into(),
            reason: "the pixel has none of perl, python3, socat and nc".into(),
        }),
        // However the far side ended it, the near side has seen it end.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::process::{Command, Stdio};

    use super::*;

    /// The server ends its direction first, then hears the rest of ours.
    fn half_closed(program: &str, script: [&str; 2]) {
        if Command::new(program).arg("--version").output().is_err() {
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            stream.write_all(&[1; 200_000]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut on_event = Vec::new();
            stream.read_to_end(&mut on_event).unwrap();
            on_event.len()
        });
        let mut relay = Command::new(program)
            .args(script)
            .arg(&port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 7];
        let mut data = vec![0; 200_000];
        relay
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut data)
            .unwrap();
        relay
            .stderr
            .as_mut()
            .unwrap()
            .read_exact(&mut said)
            .unwrap();
        assert_eq!(&said, b"200000\n", "{program}");
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
    fn every_relay_ends_each_direction_by_itself() {
        half_closed("perl", ["-e", PERL]);
        half_closed("python3", ["-c", PYTHON]);
    }
}
