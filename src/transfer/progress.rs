//! How far a transfer is, for whoever shows it; and whether it is to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct TransferProgress {
    total: AtomicU64,
    done: AtomicU64,
    stopped: AtomicBool,
}

impl TransferProgress {
    /// Bytes there are to transfer; 0 as long as that is not known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Threads at work on the transfer end at their next look.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn check_cancelled(&self) -> std::io::Result<()> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the transfer was ended"));
        }
        Ok(())
    }
}
