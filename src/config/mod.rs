//! The settings. [`Settings`] declares every key; `config.example.toml`
//! documents the keys and contains their defaults. This module accesses no
//! server, prints nothing, and reads the environment only through the caller.

mod bases;
mod choices;
mod guest_env;
mod interpolate;
mod key;
mod layer;
mod origin;
mod setting;
mod settings;
mod settings_file;
mod spanned_toml;
mod value_kind;

#[cfg(test)]
mod example_test;
#[cfg(test)]
mod load_test;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

pub use bases::{Base, Parent, Script};
pub use choices::{BackendKind, EgressPlacement, Multiplexer};
pub use guest_env::{GuestEnv, GuestVariables};
pub use key::Key;
use layer::Layers;
pub use layer::{EffectiveSetting, Flags};
pub use origin::{ConfigError, Location, Origin, Warning};
use setting::Setting;
pub use settings::Settings;
use settings_file::warn_if_exposed;

use crate::user_dirs::{self, Env};

/// The built-in defaults, which also document every key.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");

/// Every key, in the order of `config.example.toml`.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    Settings::declare(&|key| key, &mut keys);
    keys
});

/// Settings with their sources and warnings.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    /// Warnings that the caller prints.
    pub warnings: Vec<Warning>,
    /// Every key with its value, in the order of `config.example.toml`.
    pub effective: Vec<EffectiveSetting>,
}

impl Settings {
    /// Reads all layers: defaults, then `file` or else the user's settings
    /// file, then variables in `env`, then `flags`. Later layers override
    /// earlier layers.
    ///
    /// Fails at the first invalid value of any layer, or if `file` is missing.
    /// The user's settings file is optional.
    pub fn load(file: Option<&Path>, env: &Env<'_>, flags: &Flags) -> Result<Loaded, ConfigError> {
        let mut layers = Layers {
            keys: &KEYS,
            env,
            values: BTreeMap::new(),
            warnings: Vec::new(),
        };
        layers.add_document(spanned_toml::parse(&Origin::Default, EXAMPLE)?)?;
        let path = match file {
            Some(path) => Some(path.to_owned()),
            None => user_dirs::config_file(env).ok(),
        };
        if let Some(path) = &path
            && let Some(text) = settings_file::read(path, file.is_some())?
        {
            layers.add_document(spanned_toml::parse(&Origin::File(path.clone()), &text)?)?;
        }
        layers.add_env()?;
        layers.add_flags(flags)?;

        let settings = layers.read::<Self>("")?;
        for (file, key) in [
            (&settings.incus.client_key, "incus.client_key"),
            (&settings.ssh.key, "ssh.key"),
        ] {
            if let Some(file) = file {
                let secret = format!("the private key of {key}");
                layers.warnings.extend(warn_if_exposed(file, &secret));
            }
        }
        Ok(Loaded {
            settings,
            effective: layers.effective(),
            warnings: layers.warnings,
        })
    }
}

impl Loaded {
    /// The source of a key's value.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        let setting = self.effective.iter().find(|setting| setting.key == key);
        setting.map(|setting| &setting.origin)
    }
}
