//! One preparation of a host at a time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::error::Error;

const LOOK_AGAIN: Duration = Duration::from_millis(200);
const FILE: &str = "pixels-setup.lock";

/// Held until dropped, or until the process ends however it does.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

/// Waits for the lock, however long; `waiting` is called once if it is taken.
pub async fn acquire(waiting: &mut (dyn FnMut(&Path) + Send)) -> Result<Lock, Error> {
    acquire_at(&path(), waiting).await
}

async fn acquire_at(path: &Path, waiting: &mut (dyn FnMut(&Path) + Send)) -> Result<Lock, Error> {
    let failed = |error: Errno| Error::file("cannot lock", path, io::Error::from(error));
    // The directory may be everybody's: no link is followed.
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(open(path, flags, Mode::from_raw_mode(0o600)).map_err(failed)?);
    let mut told = false;
    loop {
        // Not the blocking call: it could not be given up.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock(file)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
        if !told {
            waiting(path);
            told = true;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn path() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() && Path::new("/run/lock").is_dir() {
        return Path::new("/run/lock").join(FILE);
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_dir() => Path::new(&dir).join(FILE),
        _ => std::env::temp_dir().join(format!("pixels-setup-{}.lock", uid.as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = acquire_at(&path, &mut |_| panic!("nobody holds it"))
            .await
            .unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        let mut waiting = move |_: &Path| tell.take().unwrap().send(()).unwrap();
        let release = async {
            told.await.unwrap();
            drop(first);
        };
        let (second, ()) = tokio::join!(acquire_at(&path, &mut waiting), release);
        second.unwrap();
    }

    #[tokio::test]
    async fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(acquire_at(&path, &mut |_| {}).await.is_err());
    }
}
