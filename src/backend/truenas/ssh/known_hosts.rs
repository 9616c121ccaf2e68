//! A file with pixels' host keys, recorded on the first connection.
//!
//! An entry belongs to one instance, because addresses and names are reused.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::model::{Error, Result};

pub(super) struct KnownHosts {
    /// The path of the file. Without a path, no keys are recorded.
    pub path: Option<PathBuf>,
}

impl KnownHosts {
    /// Returns the recorded key in OpenSSH's format without a comment.
    pub fn key(&self, host: &str) -> Option<String> {
        let mut lines = self.lines().into_iter();
        lines.find(|(name, _)| name == host).map(|(_, key)| key)
    }

    pub fn insert(&self, host: &str, key: &str) -> Result<()> {
        self.change(|lines| {
            lines.retain(|(name, _)| name != host);
            lines.push((host.to_owned(), key.to_owned()));
        })
    }

    /// Records the current host key for a checkpoint.
    pub fn save(&self, host: &str, label: &str) -> Result<()> {
        match self.key(host) {
            Some(key) => self.insert(&checkpoint(host, label), &key),
            None => Ok(()),
        }
    }

    /// Restores the host key of a checkpoint. Without a recorded key, the next
    /// connection records the host key.
    pub fn restore(&self, host: &str, label: &str) -> Result<()> {
        match self.key(&checkpoint(host, label)) {
            Some(key) => self.insert(host, &key),
            None => self.change(|lines| lines.retain(|(name, _)| name != host)),
        }
    }

    /// Removes the host keys of an instance and of its checkpoints.
    pub fn remove(&self, host: &str) -> Result<()> {
        let checkpoints = format!("{host}@");
        self.change(|lines| {
            lines.retain(|(name, _)| name != host && !name.starts_with(&checkpoints));
        })
    }

    fn lines(&self) -> Vec<(String, String)> {
        let text = self.path.as_ref().map(std::fs::read_to_string);
        let text = text.and_then(std::result::Result::ok).unwrap_or_default();
        parse(&text)
    }

    /// Changes the entries and replaces the file atomically.
    fn change(&self, change: impl FnOnce(&mut Vec<(String, String)>)) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let before = self.lines();
        let mut lines = before.clone();
        change(&mut lines);
        if lines == before {
            return Ok(());
        }
        let failed = |e| Error::io(format!("writing {}", path.display()), e);
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        for (name, key) in lines {
            writeln!(file, "{name} {key}").map_err(failed)?;
        }
        file.persist(path).map_err(|e| failed(e.error)).map(drop)
    }
}

pub(in super::super) fn parse(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (name, key) = line.split_once(' ')?;
            Some((name.to_owned(), key.trim().to_owned()))
        })
        .collect()
}

fn checkpoint(host: &str, label: &str) -> String {
    format!("{host}@{label}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_instances_and_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().join("sub/known_hosts"));
        let known = KnownHosts { path };
        let key = |host| known.key(host).unwrap_or_default();
        assert_eq!(known.key("px-a/1"), None);
        known.insert("px-a/1", "k 1").unwrap();
        known.insert("px-a/10", "k 10").unwrap();
        known.save("px-a/1", "cp").unwrap();
        assert_eq!(key("px-a/1"), "k 1");
        assert_eq!(known.key("px-a/2"), None);
        known.insert("px-a/1", "k 2").unwrap();
        assert_eq!(key("px-a/1"), "k 2");
        known.restore("px-a/1", "cp").unwrap();
        assert_eq!(key("px-a/1"), "k 1");
        known.restore("px-a/1", "unseen").unwrap();
        assert_eq!(known.key("px-a/1"), None);
        known.remove("px-a/1").unwrap();
        assert_eq!(known.key("px-a/1@cp"), None);
        assert_eq!(key("px-a/10"), "k 10");
    }
}
