//! Progress of a transfer, shared by the transferring threads and the display.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::model::{Error, Result};

#[derive(Debug, Default)]
pub struct TransferProgress {
    total: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicBool,
}

impl TransferProgress {
    /// Returns the number of bytes to transfer, or 0 while unknown.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns the number of transferred bytes.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn add_total(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Makes [`check_cancelled`](Self::check_cancelled) fail in all threads.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn check_cancelled(&self) -> Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}
