//! Loading settings in tests: a file and an environment of the test's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{ConfigError, Flags, Loaded, Settings};

/// An environment of these variables and nothing else.
pub fn vars(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
        .collect();
    move |name| {
        let found = pairs.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    }
}

/// A folder with a settings file, both gone when dropped.
pub struct File {
    dir: tempfile::TempDir,
}

impl File {
    pub fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    pub fn load(&self, env: &[(&str, &str)], flags: &Flags) -> Result<Loaded, ConfigError> {
        let mut all = vec![("HOME", "/nowhere/ann")];
        all.splice(0..0, env.iter().copied());
        Settings::load(Some(&self.path()), &vars(&all), flags)
    }
}

/// Loads `text` as the settings file; HOME is `/nowhere/ann` unless given.
pub fn load(text: &str, env: &[(&str, &str)]) -> Loaded {
    File::new(text).load(env, &Flags::default()).unwrap()
}

/// The message of the error that loading `text` gives.
pub fn problem(text: &str, env: &[(&str, &str)]) -> String {
    let error = File::new(text).load(env, &Flags::default()).unwrap_err();
    error.to_string()
}

/// The warnings as they are shown.
pub fn said(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}
