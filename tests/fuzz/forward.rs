//! Ports as users write them, and the list of what runs in the background.

use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};

use super::{Port, registry};
use crate::fuzz::{fuzz, text};

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
        // Somebody carries it.
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let known = registry::list(dir.path()).unwrap().len();
        drop(file);
        // And then nobody does.
        assert_eq!(registry::list(dir.path()).unwrap(), []);
        assert!(!path.exists());
        known
    });
}
