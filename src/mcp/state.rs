//! What the server knows of its sandboxes, in memory and in the state file.
//!
//! The file is replaced whole and on disk before a call that depends on it
//! returns; several changes at the same moment share one write. It is the
//! caller's alone. What cannot be read is put aside, never overwritten: the
//! pixels themselves say whose they are, so nothing is lost with it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made, or waiting for its base.
    Provisioning,
    Running,
    Stopped,
    Failed,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// One sandbox, with all that is needed to make it anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Cloned from another sandbox, or from a checkpoint of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub last_activity_at: OffsetDateTime,
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<OffsetDateTime>,
    /// The mode it is under, for listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    /// The policy that was asked for, as it goes on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Its removal has begun and must be finished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doomed: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    /// The server the sandboxes are on.
    #[serde(default)]
    server: String,
    sandboxes: Vec<Record>,
}

#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    server: String,
    inner: Mutex<Inner>,
    /// The number of the last change that is on disk.
    saved: tokio::sync::Mutex<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<String, Record>,
    /// Counts changes.
    change: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("reading {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is about sandboxes on {theirs}, not on {ours}: set mcp.state_file to another file for \
         another server",
        path.display()
    )]
    OtherServer {
        path: PathBuf,
        theirs: String,
        ours: String,
    },
}

impl Store {
    /// Reads the file; a missing one is empty. One that makes no sense is put
    /// aside, and its new place returned.
    pub fn load(path: &Path, server: &str) -> Result<(Self, Option<PathBuf>), LoadError> {
        let failed = |source| LoadError::Io {
            path: path.to_owned(),
            source,
        };
        let mut aside = None;
        let document = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Document::default(),
            Err(error) => return Err(failed(error)),
            Ok(text) => match serde_json::from_slice::<Document>(&text) {
                Ok(document) => document,
                Err(_) => {
                    let mut place = path.as_os_str().to_owned();
                    let now = OffsetDateTime::now_utc().unix_timestamp();
                    place.push(format!(".unreadable-{now}"));
                    std::fs::rename(path, &place).map_err(failed)?;
                    aside = Some(place.into());
                    Document::default()
                }
            },
        };
        if !document.server.is_empty()
            && document.server != server
            && !document.sandboxes.is_empty()
        {
            return Err(LoadError::OtherServer {
                path: path.to_owned(),
                theirs: document.server,
                ours: server.to_owned(),
            });
        }
        let records = document.sandboxes.into_iter();
        let store = Self {
            path: path.to_owned(),
            server: server.to_owned(),
            inner: Mutex::new(Inner {
                records: records.map(|one| (one.name.clone(), one)).collect(),
                change: 0,
            }),
            saved: tokio::sync::Mutex::new(0),
        };
        Ok((store, aside))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, name: &str) -> Option<Record> {
        self.lock().records.get(name).cloned()
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Record> {
        self.lock().records.values().cloned().collect()
    }

    /// Adds a record, unless there are `limit` already; false then.
    pub fn add(&self, record: Record, limit: Option<u64>) -> bool {
        let mut inner = self.lock();
        let full = limit.is_some_and(|limit| inner.records.len() as u64 >= limit);
        if full || inner.records.contains_key(&record.name) {
            return false;
        }
        inner.change += 1;
        inner.records.insert(record.name.clone(), record);
        true
    }

    /// Changes a record; false when it is gone.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut Record)) -> bool {
        let mut inner = self.lock();
        let Some(record) = inner.records.get_mut(name) else {
            return false;
        };
        let before = record.clone();
        change(record);
        if *record != before {
            inner.change += 1;
        }
        true
    }

    pub fn remove(&self, name: &str) {
        let mut inner = self.lock();
        if inner.records.remove(name).is_some() {
            inner.change += 1;
        }
    }

    /// Returns when every change made so far is on disk.
    pub async fn save(&self) -> io::Result<()> {
        let wanted = self.lock().change;
        let mut saved = self.saved.lock().await;
        if *saved >= wanted {
            return Ok(());
        }
        let (text, change) = {
            let inner = self.lock();
            let document = Document {
                server: self.server.clone(),
                sandboxes: inner.records.values().cloned().collect(),
            };
            (serde_json::to_vec_pretty(&document)?, inner.change)
        };
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || replace(&path, &text))
            .await
            .map_err(io::Error::other)??;
        *saved = change;
        Ok(())
    }
}

/// Puts the text in place of the file, or leaves the file as it is.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    // Only the owner can read what `tempfile` makes.
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(text)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    pub fn record(name: &str) -> Record {
        let now = OffsetDateTime::UNIX_EPOCH;
        Record {
            name: name.into(),
            label: None,
            image: "i".into(),
            base: None,
            from: None,
            ip: None,
            status: Status::Running,
            error: None,
            created_at: now,
            last_activity_at: now,
            expires_at: None,
            egress: None,
            policy: None,
            cpu: None,
            memory: None,
            doomed: false,
        }
    }

    #[tokio::test]
    async fn what_is_saved_is_read_back_and_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/state.json");
        let (store, aside) = Store::load(&path, "here").unwrap();
        assert_eq!(aside, None);
        assert!(store.add(record("a"), Some(2)));
        assert!(!store.add(record("a"), None));
        assert!(store.add(record("b"), Some(2)));
        assert!(!store.add(record("c"), Some(2)));
        assert!(store.update("b", |it| it.status = Status::Failed));
        store.save().await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (again, _) = Store::load(&path, "here").unwrap();
        assert_eq!(again.all(), store.all());
        let other = Store::load(&path, "there").unwrap_err();
        assert!(
            other.to_string().contains("on here, not on there"),
            "{other}"
        );
    }

    #[test]
    fn an_unreadable_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        std::fs::write(&path, "{\"sandboxes\": [").unwrap();
        let (store, aside) = Store::load(&path, "here").unwrap();
        assert!(store.all().is_empty());
        let aside = std::fs::read_to_string(aside.unwrap()).unwrap();
        assert_eq!(aside, "{\"sandboxes\": [");
        assert!(!path.exists());
    }
}
