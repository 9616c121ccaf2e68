//! The registry of this user's running forwards.
//!
//! Each forward has a file in one directory, and the forward's process locks
//! the file. A file without a lock belongs to a killed process, even if another
//! process now has the same process id.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::Port;

/// Time limit for a forward to exit after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Name of the pixel.
    pub name: String,
    pub ports: Vec<Port>,
    pub pid: u32,
    pub background: bool,
}

/// The registration of a forward in this process. The registration ends when
/// this value is dropped or the process exits.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    #[expect(dead_code, reason = "closing the file releases the lock")]
    file: File,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Registers a forward of this process in `dir`. Creates `dir` if missing.
pub fn register(dir: &Path, forward: &Forward) -> io::Result<Registration> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{}.json", forward.pid));
    let temporary = dir.join(format!(".{}", forward.pid));
    let mut file = File::create(&temporary)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(&serde_json::to_vec(forward)?)?;
    fs::rename(&temporary, &path)?;
    Ok(Registration { path, file })
}

/// Returns all running forwards, sorted by name. Deletes files of killed
/// processes. Returns an empty list if `dir` does not exist.
pub fn list(dir: &Path) -> io::Result<Vec<Forward>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut forwards = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            forwards.extend(read(&path)?);
        }
    }
    forwards.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    Ok(forwards)
}

/// Reads a file. Returns `None` if the file is missing, malformed, or from a
/// killed process. Deletes the file of a killed process.
fn read(path: &Path) -> io::Result<Option<Forward>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = fs::remove_file(path);
        return Ok(None);
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Sends SIGTERM to a forward's process and waits until the process exits.
/// Succeeds if the forward is not running. Fails with `TimedOut` after 10 s.
pub async fn stop(dir: &Path, forward: &Forward) -> io::Result<()> {
    let path = dir.join(format!("{}.json", forward.pid));
    let is_running = |path: &Path| Ok::<_, io::Error>(read(path)?.as_ref() == Some(forward));
    if !is_running(&path)? {
        return Ok(());
    }
    let pid = i32::try_from(forward.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    kill_process(pid, Signal::TERM)?;
    let exited = async {
        while is_running(&path)? {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    };
    tokio::time::timeout(STOP_TIMEOUT, exited)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_omits_dropped_and_killed_forwards() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("forwards");
        assert!(list(&dir).unwrap().is_empty());
        let forward = Forward {
            name: "box".into(),
            ports: vec!["1:2".parse().unwrap()],
            pid: std::process::id(),
            background: true,
        };
        let registration = register(&dir, &forward).unwrap();
        assert_eq!(list(&dir).unwrap(), [forward]);
        drop(registration);
        assert!(list(&dir).unwrap().is_empty());
        // The file of a killed process is not locked.
        fs::write(dir.join("1.json"), "{}").unwrap();
        assert!(list(&dir).unwrap().is_empty());
        assert!(!dir.join("1.json").exists());
    }
}
