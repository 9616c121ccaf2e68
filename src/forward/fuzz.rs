//! Fuzz tests of port arguments and of the list of background forwards.

use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Port, half_close, registry};
use crate::fuzz::{asynchronous, fuzz, text};

#[test]
fn ports() {
    fuzz("ports", 20_000, &[":", "8080", "65535", "0"], |bytes| {
        let port = text(bytes).parse::<Port>().ok();
        if let Some(port) = port {
            assert_eq!(port.to_string().parse(), Ok(port));
            assert_ne!(port.remote, 0);
        }
        port.map(|port| port.local == 0)
    });
}

/// A direction is closed at the length that the relay reports.
#[test]
fn relays() {
    let words = ["5\n", "0\n", "\n", "18446744073709551615\n"];
    fuzz("relays", 4000, &words, |bytes| {
        asynchronous(async {
            let (mut near, far) = tokio::io::duplex(1 << 16);
            let (mut data, mut length) = half_close::writers(far);
            length.write_all(bytes).await.unwrap();
            let taken = data.write_all(b"hello").await.is_ok();
            drop((data, length));
            let mut got = Vec::new();
            near.read_to_end(&mut got).await.unwrap();
            assert!(b"hello".starts_with(&got[..]));
            assert_eq!(taken, got.len() == 5);
            got.len()
        })
    });
}

#[test]
fn list() {
    let words = [
        "\"name\":",
        "\"ports\":[",
        "\"local\":",
        "\"remote\":",
        "\"pid\":",
        "\"background\":",
    ];
    let dir = tempfile::tempdir().unwrap();
    fuzz("forwards", 1500, &words, |bytes| {
        let path = dir.path().join("1.json");
        fs::write(&path, bytes).unwrap();
        // A locked file belongs to a running process.
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let known = registry::list(dir.path()).unwrap().len();
        // Closing is not enough: a process that another test just forked may have
        // a copy of the descriptor.
        flock(&file, FlockOperation::Unlock).unwrap();
        assert_eq!(registry::list(dir.path()).unwrap(), []);
        assert!(!path.exists());
        known
    });
}
