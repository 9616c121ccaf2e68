//! Locks between processes: on a file, and gone when their holder ends,
//! however it does.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

/// The first pause between two looks at a taken lock; it doubles.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(160);

/// Who may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    Exclusive,
    /// All who want it so.
    Shared,
}

/// Held until dropped, or until the process ends.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// The lock of this file, which is made, with its folder, where missing.
    /// `None` when somebody else holds it. A symbolic link is an error.
    pub fn attempt(path: &Path, share: LockMode) -> io::Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        // The folder may be everybody's.
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(open(path, flags, Mode::from_raw_mode(0o600))?);
        // Not the blocking call: it could not be given up.
        let operation = match share {
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
        };
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the lock, however long; `waiting` is called once if it is
    /// taken.
    pub async fn wait(path: &Path, share: LockMode, waiting: impl FnOnce()) -> io::Result<Self> {
        let mut waiting = Some(waiting);
        let mut pause = FIRST;
        loop {
            if let Some(lock) = Self::attempt(path, share)? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Leaves word in the file of who holds it.
    pub fn write_owner(&mut self, text: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all(text.as_bytes())
    }
}

/// Where the locks are that all commands of this user on this machine share;
/// gone with the next start of the machine.
pub fn folder() -> io::Result<PathBuf> {
    let user = rustix::process::geteuid();
    if user.is_root() && Path::new("/run/lock").is_dir() {
        return Ok("/run/lock/pixels".into());
    }
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR")
        && Path::new(&dir).is_dir()
    {
        return Ok(Path::new(&dir).join("pixels"));
    }
    let folder = std::env::temp_dir().join(format!("pixels-{}", user.as_raw()));
    ensure_private_dir(&folder, user.as_raw())?;
    Ok(folder)
}

/// Makes a folder where anybody could have made it before.
fn ensure_private_dir(folder: &Path, user: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = std::fs::symlink_metadata(folder)?;
    if found.is_dir() && found.uid() == user {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} is somebody else's", folder.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_free_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join("locks").join(name);
        let attempt = |name: &str| FileLock::attempt(&path(name), LockMode::Exclusive).unwrap();
        let first = attempt("a");
        assert!(first.is_some());
        assert!(attempt("a").is_none());
        assert!(attempt("b").is_some());
        let (tell, told) = tokio::sync::oneshot::channel();
        let release = async {
            told.await.unwrap();
            drop(first);
        };
        let waiting = || tell.send(()).unwrap();
        let path = path("a");
        let (second, ()) =
            tokio::join!(FileLock::wait(&path, LockMode::Exclusive, waiting), release);
        second.unwrap();
    }

    #[test]
    fn several_beside_each_other_or_one_alone() {
        let dir = tempfile::tempdir().unwrap();
        let attempt = |share| FileLock::attempt(&dir.path().join("a"), share).unwrap();
        let several = [attempt(LockMode::Shared), attempt(LockMode::Shared)];
        assert!(several.iter().all(Option::is_some));
        assert!(attempt(LockMode::Exclusive).is_none());
        drop(several);
        let alone = attempt(LockMode::Exclusive);
        assert!(alone.is_some());
        assert!(attempt(LockMode::Shared).is_none());
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(FileLock::attempt(&path, LockMode::Exclusive).is_err());
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let folder = dir.path().join("pixels");
        ensure_private_dir(&folder, user).unwrap();
        ensure_private_dir(&folder, user).unwrap();
        ensure_private_dir(&folder, user + 1).unwrap_err();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        ensure_private_dir(&link, user).unwrap_err();
    }
}
