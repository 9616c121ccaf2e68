//! Locks between processes: flock(2) on a file. The kernel releases a lock when
//! the process exits for any reason.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

/// The pause after the first attempt to lock. Each pause is twice the previous
/// pause, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(160);

/// Whether other processes can lock the file at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    Exclusive,
    /// Shared with other `Shared` locks, but not with an exclusive lock.
    Shared,
}

/// A lock on a file, released on drop or when the process exits.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Locks the file, or returns `None` if the file is locked already. Creates the
    /// file and its directory if missing. Fails if the file is a symlink.
    pub fn try_acquire(path: &Path, mode: LockMode) -> io::Result<Option<Self>> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        // Other users may be able to write to the directory.
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(open(path, flags, Mode::from_raw_mode(0o600))?);
        // A blocking call cannot be canceled.
        let operation = match mode {
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
        };
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the lock without a timeout. Calls `on_wait` once if the lock is
    /// not free.
    pub async fn acquire(path: &Path, mode: LockMode, on_wait: impl FnOnce()) -> io::Result<Self> {
        let mut on_wait = Some(on_wait);
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(lock) = Self::try_acquire(path, mode)? {
                return Ok(lock);
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Replaces the content of the file, which describes the lock's owner.
    pub fn write_owner(&mut self, text: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all(text.as_bytes())
    }
}

/// Returns the directory of the locks that all commands of this user on this
/// machine share. A reboot empties the directory.
///
/// Other users could hold the locks if they can open the files. Fails if the
/// directory belongs to another user or other users can write to it.
pub fn lock_dir() -> io::Result<PathBuf> {
    let user = rustix::process::geteuid();
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let dir = match runtime_dir.filter(|dir| dir.is_dir()) {
        // Unlike /run/lock, only root can write to /run.
        _ if user.is_root() && Path::new("/run").is_dir() => "/run/pixels".into(),
        Some(dir) => dir.join("pixels"),
        None => std::env::temp_dir().join(format!("pixels-{}", user.as_raw())),
    };
    ensure_private_dir(&dir, user.as_raw())?;
    Ok(dir)
}

/// Creates a directory in a parent that other users may be able to write to.
/// Fails if the directory belongs to another user, if other users can write to
/// it, or if it is a symlink.
fn ensure_private_dir(dir: &Path, user: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = std::fs::symlink_metadata(dir)?;
    let defect = match found.is_dir() && found.uid() == user {
        false => "belongs to another user",
        true if found.mode() & 0o022 != 0 => "is writable by other users",
        true => return Ok(()),
    };
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} {defect}: remove it", dir.display()),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn exclusive_lock_excludes_others_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join("locks").join(name);
        let attempt = |name: &str| FileLock::try_acquire(&path(name), LockMode::Exclusive).unwrap();
        let first = attempt("a");
        assert!(first.is_some());
        assert!(attempt("a").is_none());
        assert!(attempt("b").is_some());
        let (on_wait, waited) = tokio::sync::oneshot::channel();
        let release = async {
            waited.await.unwrap();
            drop(first);
        };
        let on_wait = || on_wait.send(()).unwrap();
        let path = path("a");
        let (second, ()) = tokio::join!(
            FileLock::acquire(&path, LockMode::Exclusive, on_wait),
            release
        );
        second.unwrap();
    }

    #[test]
    fn shared_locks_exclude_exclusive_ones() {
        let dir = tempfile::tempdir().unwrap();
        let attempt = |mode| FileLock::try_acquire(&dir.path().join("a"), mode).unwrap();
        let shared = [attempt(LockMode::Shared), attempt(LockMode::Shared)];
        assert!(shared.iter().all(Option::is_some));
        assert!(attempt(LockMode::Exclusive).is_none());
        drop(shared);
        let exclusive = attempt(LockMode::Exclusive);
        assert!(exclusive.is_some());
        assert!(attempt(LockMode::Shared).is_none());
    }

    #[test]
    fn symlink_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(FileLock::try_acquire(&path, LockMode::Exclusive).is_err());
    }

    #[test]
    fn directory_of_or_for_other_users_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let private = dir.path().join("pixels");
        ensure_private_dir(&private, user).unwrap();
        ensure_private_dir(&private, user).unwrap();
        ensure_private_dir(&private, user + 1).unwrap_err();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&private, &link).unwrap();
        ensure_private_dir(&link, user).unwrap_err();
        let shared = std::fs::Permissions::from_mode(0o770);
        std::fs::set_permissions(&private, shared).unwrap();
        ensure_private_dir(&private, user).unwrap_err();
    }
}
