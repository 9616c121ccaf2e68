//! Connections of the client to the daemon's socket.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use pixels::backend::incus::{Client, Endpoint};
use serde_json::Value;

use crate::support::wait;

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    /// The number of connections with at least one request.
    used: AtomicUsize,
}

fn answer(mut stream: UnixStream, counts: &Counts) {
    let mut buffer = [0; 65_536];
    let mut first = true;
    while let Ok(1..) = stream.read(&mut buffer) {
        if std::mem::take(&mut first) {
            counts.used.fetch_add(1, Ordering::SeqCst);
        }
        // A slow answer makes requests overlap.
        std::thread::sleep(Duration::from_micros(200));
        let body = r#"{"type":"sync","metadata":{}}"#;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

/// The daemon reads the first bytes of a connection in its accept loop, so an
/// idle connection blocks every client of the machine, including pixels.
#[test]
fn client_sends_a_request_on_every_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let counts = Arc::new(Counts::default());
    let of_server = Arc::clone(&counts);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            of_server.accepted.fetch_add(1, Ordering::SeqCst);
            let counts = Arc::clone(&of_server);
            std::thread::spawn(move || answer(stream.unwrap(), &counts));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..20 {
        let client = Client::new(&Endpoint::Unix(path.clone()), None).unwrap();
        // Requests start while others end, as in a fork with several clones.
        let loops = (0..4u64).map(|at| {
            let client = client.clone();
            async move {
                for turn in 0..4 {
                    tokio::time::sleep(Duration::from_micros(300 * at + 137 * turn)).await;
                    client.get::<Value>("/1.0").await.unwrap();
                }
            }
        });
        runtime.block_on(join_all(loops));
        // The client still exists and keeps its connections open.
        wait::until("every connection has carried a request", || {
            let accepted = counts.accepted.load(Ordering::SeqCst);
            (counts.used.load(Ordering::SeqCst) == accepted).then_some(())
        });
    }
}
