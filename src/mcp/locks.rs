//! One gate per sandbox: work in it shares the gate, whatever changes the
//! sandbox as a whole has it alone. Who needs it alone may interrupt the work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
pub struct SandboxLocks(Mutex<HashMap<String, Arc<SandboxLock>>>);

#[derive(Debug, Default)]
pub struct SandboxLock {
    gate: Arc<RwLock<()>>,
    work: Mutex<CancellationToken>,
}

/// Held while something is done in or to a sandbox.
pub type ReadGuard = OwnedRwLockReadGuard<()>;
pub type WriteGuard = OwnedRwLockWriteGuard<()>;

impl SandboxLocks {
    pub fn get(&self, name: &str) -> Arc<SandboxLock> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(name.to_owned()).or_default().clone()
    }

    /// The sandbox is gone for good.
    pub fn forget(&self, name: &str) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.remove(name);
    }
}

impl SandboxLock {
    /// Cancelled when the work that begins now is to end. Taken before the gate.
    pub fn token(&self) -> CancellationToken {
        self.work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends the work that is under way.
    pub fn interrupt(&self) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *work).cancel();
    }

    pub async fn read(&self) -> ReadGuard {
        self.gate.clone().read_owned().await
    }

    pub async fn write(&self) -> WriteGuard {
        self.gate.clone().write_owned().await
    }

    /// Whether somebody has it alone.
    pub fn is_changing(&self) -> bool {
        self.gate.try_read().is_err()
    }

    /// `None` when anything is under way.
    pub fn try_write(&self) -> Option<WriteGuard> {
        self.gate.clone().try_write_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_shared_interrupted_and_then_kept_out() {
        let locks = SandboxLocks::default();
        let slot = locks.get("a");
        let (token, one) = (slot.token(), slot.read().await);
        let two = slot.read().await;
        assert!(slot.try_write().is_none());
        slot.interrupt();
        assert!(token.is_cancelled());
        assert!(!slot.token().is_cancelled());
        drop((one, two));
        let _alone = slot.write().await;
        assert!(locks.get("a").try_write().is_none());
        assert!(locks.get("b").try_write().is_some());
    }
}
