//! Where a value came from, and the listing that says so for every key.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// The layer a value was taken from, weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `config.example.toml`, which is part of the program.
    Default,
    File(PathBuf),
    /// The name of the variable.
    Env(String),
    /// The flag as users type it, such as `--egress`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(variable) => write!(f, "env {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where to look for a value, for messages: `/x/config.toml:3`,
/// `PIXELS_BACKEND`, `--egress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub origin: Origin,
    /// Counted from 1; only files have lines.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str("built-in defaults")?,
            Origin::File(path) => write!(f, "{}", path.display())?,
            Origin::Env(name) | Origin::Flag(name) => f.write_str(name)?,
        }
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// One key as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Dotted, such as `network.egress`, `env.EDITOR`, `mcp.bases.dev`.
    pub key: String,
    /// The value as TOML, as written in its layer; secrets are `"***"`. Where
    /// entries are serialized, it is the value itself.
    #[serde(serialize_with = "itself")]
    pub value: String,
    pub origin: Origin,
}

fn itself<S: Serializer>(toml: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let table: Option<toml::Table> = toml::from_str(&format!("it = {toml}")).ok();
    match table.and_then(|mut table| table.remove("it")) {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_str(toml),
    }
}

/// Every key with its value and layer, in the order of `config.example.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Origins(Vec<Entry>);

impl Origins {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self(entries)
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.0.iter()
    }
}

impl IntoIterator for Origins {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Origins {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
