//! The records of all sandboxes, in memory and in the state file.
//!
//! The file is replaced as a whole and readable only by its owner. A call
//! returns only after its changes are on disk; concurrent changes share a
//! write. An unreadable file is renamed, never overwritten. Its sandboxes are
//! not lost, because each pixel stores its owner and record as properties.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::replace_file::replace_file;
use crate::model::lock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The sandbox is being created, or waits for its base.
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

/// A sandbox, with all values that are needed to create it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The sandbox that was cloned, or its checkpoint as `NAME:LABEL`.
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
    /// The current egress mode, for listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    /// The requested policy, encoded by [`crate::egress::Policy::to_record`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Disk limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// The destruction has started and must be finished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doomed: bool,
    /// A restore has started, and the policy is not known to be the one after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restoring: Option<Restoring>,
}

/// The policies of a restore, encoded by [`crate::egress::Policy::to_record`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// The policy before the restore.
    pub before: String,
    /// The widest policy after the restore.
    pub after: String,
}

impl Record {
    pub fn new(name: String, status: Status, now: OffsetDateTime) -> Self {
        Self {
            name,
            label: None,
            image: String::new(),
            base: None,
            from: None,
            ip: None,
            status,
            error: None,
            created_at: now,
            last_activity_at: now,
            expires_at: None,
            egress: None,
            policy: None,
            cpu: None,
            memory: None,
            disk: None,
            doomed: false,
            restoring: None,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    /// The backend with the sandboxes.
    #[serde(default)]
    server: String,
    sandboxes: Vec<Record>,
}

#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    server: String,
    inner: Mutex<Inner>,
    /// Number of the last change that has been written to disk.
    saved: tokio::sync::Mutex<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<String, Record>,
    /// Number of the last change.
    change: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} lists sandboxes on {theirs}, not on {ours}: set mcp.state_file to a file for this \
         backend",
        path.display()
    )]
    OtherServer {
        path: PathBuf,
        theirs: String,
        ours: String,
    },
}

impl Store {
    /// Reads the file. A missing file counts as empty. Renames an unreadable
    /// file and returns its new path.
    pub fn load(path: &Path, server: &str) -> Result<(Self, Option<PathBuf>), LoadError> {
        let failed = |source| LoadError::Io {
            path: path.to_owned(),
            source,
        };
        let mut renamed = None;
        let document = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Document::default(),
            Err(error) => return Err(failed(error)),
            Ok(text) => match serde_json::from_slice::<Document>(&text) {
                Ok(document) => document,
                Err(_) => {
                    let mut new_path = path.as_os_str().to_owned();
                    let now = OffsetDateTime::now_utc().unix_timestamp();
                    new_path.push(format!(".unreadable-{now}"));
                    std::fs::rename(path, &new_path).map_err(failed)?;
                    renamed = Some(new_path.into());
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
                records: records.map(|it| (it.name.clone(), it)).collect(),
                change: 0,
            }),
            saved: tokio::sync::Mutex::new(0),
        };
        Ok((store, renamed))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub fn get(&self, name: &str) -> Option<Record> {
        self.lock().records.get(name).cloned()
    }

    /// Returns all records, sorted by name.
    pub fn all(&self) -> Vec<Record> {
        self.lock().records.values().cloned().collect()
    }

    /// Adds a record. Returns false if the name is in use or `limit` records
    /// exist.
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

    /// Changes a record, if there is a record with this name.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut Record)) {
        let mut inner = self.lock();
        if let Some(record) = inner.records.get_mut(name) {
            let before = record.clone();
            change(record);
            inner.change += u64::from(inner.records[name] != before);
        }
    }

    pub fn remove(&self, name: &str) {
        let mut inner = self.lock();
        if inner.records.remove(name).is_some() {
            inner.change += 1;
        }
    }

    /// Waits until all changes made before the call are on disk.
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
        tokio::task::spawn_blocking(move || replace_file(&path, &text))
            .await
            .map_err(io::Error::other)??;
        *saved = change;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record(name: &str) -> Record {
        let image = "i".into();
        let now = OffsetDateTime::UNIX_EPOCH;
        Record {
            image,
            ..Record::new(name.into(), Status::Running, now)
        }
    }

    #[test]
    fn unreadable_file_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        std::fs::write(&path, "{\"sandboxes\": [").unwrap();
        let (store, renamed) = Store::load(&path, "here").unwrap();
        assert!(store.all().is_empty() && !path.exists());
        let content = std::fs::read_to_string(renamed.unwrap()).unwrap();
        assert_eq!(content, "{\"sandboxes\": [");
    }

    #[tokio::test]
    async fn saved_records_are_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/state.json");
        let (store, renamed) = Store::load(&path, "here").unwrap();
        assert_eq!(renamed, None);
        assert!(store.add(record("a"), Some(2)));
        assert!(!store.add(record("a"), None));
        assert!(store.add(record("b"), Some(2)));
        assert!(!store.add(record("c"), Some(2)));
        store.update("b", |it| it.status = Status::Failed);
        store.save().await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (reloaded, _) = Store::load(&path, "here").unwrap();
        assert_eq!(reloaded.all(), store.all());
        assert_eq!(reloaded.get("b").unwrap().status, Status::Failed);
        let other = Store::load(&path, "there").unwrap_err();
        assert!(
            other.to_string().contains("on here, not on there"),
            "{other}"
        );
    }
}
