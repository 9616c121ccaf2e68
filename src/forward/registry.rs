//! The forwards of this user that are in force: one file each, locked by the
//! process that carries it, so that nobody mistakes another process for it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::Port;

/// For a forward that was told to end.
const ENDING: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    pub name: String,
    pub ports: Vec<Port>,
    pub pid: u32,
    pub background: bool,
}

/// Gone from the list when dropped, or when the process ends however it does.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    #[expect(dead_code, reason = "closing the file releases the lock")]
    file: File,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Puts a forward of this process on the list.
pub fn enter(folder: &Path, forward: &Forward) -> io::Result<Entry> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{}.json", forward.pid));
    let hidden = folder.join(format!(".{}", forward.pid));
    let mut file = File::create(&hidden)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(&serde_json::to_vec(forward)?)?;
    fs::rename(&hidden, &path)?;
    Ok(Entry { path, file })
}

/// All that are in force, by name. Files of processes that were killed are
/// removed.
pub fn list(folder: &Path) -> io::Result<Vec<Forward>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            found.extend(read(&path)?);
        }
    }
    found.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    Ok(found)
}

fn read(path: &Path) -> io::Result<Option<Forward>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        // Nobody holds it any more.
        let _ = fs::remove_file(path);
        return Ok(None);
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Tells a forward to end and waits until it has.
pub async fn stop(folder: &Path, forward: &Forward) -> io::Result<()> {
    let path = folder.join(format!("{}.json", forward.pid));
    let still = |path: &Path| Ok::<_, io::Error>(read(path)?.as_ref() == Some(forward));
    if !still(&path)? {
        return Ok(());
    }
    let pid = i32::try_from(forward.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    kill_process(pid, Signal::TERM)?;
    let ended = async {
        while still(&path)? {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    };
    tokio::time::timeout(ENDING, ended)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_held_is_no_longer_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("forwards");
        assert!(list(&folder).unwrap().is_empty());
        let forward = Forward {
            name: "box".into(),
            ports: vec!["1:2".parse().unwrap()],
            pid: std::process::id(),
            background: true,
        };
        let entry = enter(&folder, &forward).unwrap();
        assert_eq!(list(&folder).unwrap(), [forward]);
        drop(entry);
        assert!(list(&folder).unwrap().is_empty());
        // As a killed process leaves it.
        fs::write(folder.join("1.json"), "{}").unwrap();
        assert!(list(&folder).unwrap().is_empty());
        assert!(!folder.join("1.json").exists());
    }
}
