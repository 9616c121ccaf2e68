//! A read-write lock per sandbox. Work in a sandbox holds the read lock.
//! Creating, stopping, restoring or destroying the sandbox holds the write
//! lock, and may interrupt the work first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

use crate::model::lock;

#[derive(Debug, Default)]
pub struct SandboxLocks(Mutex<HashMap<String, Arc<SandboxLock>>>);

#[derive(Debug, Default)]
pub struct SandboxLock {
    lock: Arc<RwLock<()>>,
    interrupt: Mutex<CancellationToken>,
}

pub type ReadGuard = OwnedRwLockReadGuard<()>;
pub type WriteGuard = OwnedRwLockWriteGuard<()>;

impl SandboxLocks {
    pub fn get(&self, name: &str) -> Arc<SandboxLock> {
        lock(&self.0).entry(name.to_owned()).or_default().clone()
    }

    /// Removes the lock of a sandbox that no longer exists.
    pub fn remove(&self, name: &str) {
        lock(&self.0).remove(name);
    }
}

impl SandboxLock {
    /// Returns a token that the next [`Self::interrupt`] cancels. Get the token
    /// before the read lock, so that no interruption is missed.
    pub fn token(&self) -> CancellationToken {
        lock(&self.interrupt).clone()
    }

    /// Cancels all tokens that were returned before.
    pub fn interrupt(&self) {
        std::mem::take(&mut *lock(&self.interrupt)).cancel();
    }

    pub async fn read(&self) -> ReadGuard {
        self.lock.clone().read_owned().await
    }

    pub async fn write(&self) -> WriteGuard {
        self.lock.clone().write_owned().await
    }

    /// Whether the write lock is held.
    pub fn is_changing(&self) -> bool {
        self.lock.try_read().is_err()
    }

    /// Takes the write lock. Returns `None` if any lock is held.
    pub fn try_write(&self) -> Option<WriteGuard> {
        self.lock.clone().try_write_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn write_lock_waits_for_interrupted_readers() {
        let locks = SandboxLocks::default();
        let lock = locks.get("a");
        let (token, first) = (lock.token(), lock.read().await);
        let second = lock.read().await;
        assert!(lock.try_write().is_none());
        lock.interrupt();
        assert!(token.is_cancelled());
        assert!(!lock.token().is_cancelled());
        drop((first, second));
        let _guard = lock.write().await;
        assert!(locks.get("a").try_write().is_none());
        assert!(locks.get("b").try_write().is_some());
    }
}
