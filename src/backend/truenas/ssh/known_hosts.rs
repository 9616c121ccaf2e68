//! The host keys of pixels as they were first seen, in a file of pixels' own.
//!
//! An entry is for one instance, not for an address or a name that others
//! will have after it.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::model::{Error, Result};

#[derive(Debug)]
pub(super) struct KnownHosts {
    path: Option<PathBuf>,
}

/// What is written about a host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Known,
    New,
    /// Another is on record.
    Changed,
}

impl KnownHosts {
    /// Without a path nothing is remembered.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path }
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// `key` as OpenSSH writes it, without a comment.
    pub fn check(&self, host: &str, key: &str) -> Verdict {
        match self.entry(host) {
            None => Verdict::New,
            Some(known) if known == key => Verdict::Known,
            Some(_) => Verdict::Changed,
        }
    }

    pub fn put(&self, host: &str, key: &str) -> Result<()> {
        self.change(|lines| {
            lines.retain(|(name, _)| name != host);
            lines.push((host.to_owned(), key.to_owned()));
        })
    }

    /// Notes that a checkpoint holds the host key of now.
    pub fn save(&self, host: &str, label: &str) -> Result<()> {
        match self.entry(host) {
            Some(key) => self.put(&at(host, label), &key),
            None => Ok(()),
        }
    }

    /// The disk went back to a checkpoint, and the host key with it: that of
    /// the checkpoint is expected from now on, or, where it was never seen,
    /// the next one is taken as the first.
    pub fn restore(&self, host: &str, label: &str) -> Result<()> {
        match self.entry(&at(host, label)) {
            Some(key) => self.put(host, &key),
            None => self.change(|lines| lines.retain(|(name, _)| name != host)),
        }
    }

    /// Of an instance that is no more, its checkpoints included.
    pub fn forget(&self, host: &str) -> Result<()> {
        let checkpoints = format!("{host}@");
        self.change(|lines| {
            lines.retain(|(name, _)| name != host && !name.starts_with(&checkpoints));
        })
    }

    fn entry(&self, host: &str) -> Option<String> {
        self.lines()
            .into_iter()
            .find(|(name, _)| name == host)
            .map(|(_, key)| key)
    }

    fn lines(&self) -> Vec<(String, String)> {
        let text = self.path.as_ref().map(std::fs::read_to_string);
        let text = text.and_then(std::result::Result::ok).unwrap_or_default();
        parse(&text)
    }

    /// In one step, so that no reader sees half a file.
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

fn at(host: &str, label: &str) -> String {
    format!("{host}@{label}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_an_instance_and_follows_its_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownHosts::new(Some(dir.path().join("sub/known_hosts")));
        assert_eq!(known.check("px-a/1", "k 1"), Verdict::New);
        known.put("px-a/1", "k 1").unwrap();
        known.put("px-a/10", "k 10").unwrap();
        known.save("px-a/1", "cp").unwrap();
        assert_eq!(known.check("px-a/1", "k 1"), Verdict::Known);
        assert_eq!(known.check("px-a/2", "k 1"), Verdict::New);
        assert_eq!(known.check("px-a/1", "k 2"), Verdict::Changed);
        known.put("px-a/1", "k 2").unwrap();
        known.restore("px-a/1", "cp").unwrap();
        assert_eq!(known.check("px-a/1", "k 1"), Verdict::Known);
        known.restore("px-a/1", "unseen").unwrap();
        assert_eq!(known.check("px-a/1", "k 3"), Verdict::New);
        known.forget("px-a/1").unwrap();
        assert_eq!(known.entry("px-a/1@cp"), None);
        assert_eq!(known.check("px-a/10", "k 10"), Verdict::Known);
    }
}
