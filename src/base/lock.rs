//! One build of a base at a time: a file lock that dies with its process.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::{Error, Result};

const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Held until dropped, or until the process ends however it does.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits for the lock, however long; `waiting` is called once if it is taken.
    pub async fn wait(folder: &Path, name: &str, waiting: impl FnOnce()) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            if let Some(lock) = Self::attempt(folder, name)? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// `None` when somebody else holds it.
    pub fn attempt(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(format!("{name}.lock"));
        Self::at(&path).map_err(|source| Error::Lock { path, source })
    }

    /// The lock of this file, made with its folder where missing; `None` when
    /// somebody else holds it.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(open(path, flags, Mode::from_raw_mode(0o600))?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves word in the file of who holds it.
    pub fn sign(&mut self, text: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_free_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("builds");
        let first = Lock::attempt(&folder, "a").unwrap();
        assert!(first.is_some());
        assert!(Lock::attempt(&folder, "a").unwrap().is_none());
        assert!(Lock::attempt(&folder, "b").unwrap().is_some());
        let (tell, told) = tokio::sync::oneshot::channel();
        let release = async {
            told.await.unwrap();
            drop(first);
        };
        let waiting = || tell.send(()).unwrap();
        let (second, ()) = tokio::join!(Lock::wait(&folder, "a", waiting), release);
        second.unwrap();
    }
}
