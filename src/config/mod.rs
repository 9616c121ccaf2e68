//! The settings: where they are found, which layer wins, what they mean.
//!
//! Knows files and variables, but no server and no command. It never prints
//! and never looks at the process's own environment: the caller hands that in.

mod bases;
mod document;
mod duration;
mod error;
mod guest_env;
pub mod keys;
mod kind;
mod layer;
mod origin;
pub mod paths;
mod resolve;
mod settings;
mod source;
mod template;

#[cfg(test)]
mod example_test;
#[cfg(test)]
mod file_test;
#[cfg(test)]
mod guest_env_test;
#[cfg(test)]
mod load_test;
#[cfg(test)]
mod test_support;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use bases::{Base, Parent, Script};
pub use duration::parse as parse_duration;
pub use error::{ConfigError, Warning};
pub use guest_env::{GuestEnv, GuestVariables};
pub use layer::Flags;
pub use origin::{Entry, Origin, Origins, Place};
pub use paths::config_dir;
pub use settings::{
    BackendKind, CheckpointSettings, ConsoleSettings, Defaults, EgressMode, EgressPlacement,
    IncusSettings, McpSettings, Multiplexer, NetworkSettings, NicType, ProvisionSettings, Settings,
    SshSettings, TrueNasSettings,
};

/// The built-in layer, and the documentation of every key.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");

/// Settings with what there is to say about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    /// In the order they were found. For the caller to show.
    pub warnings: Vec<Warning>,
    /// Every key, its value and its layer.
    pub origins: Origins,
    /// Where the settings file is or would be; `None` when no home folder is known.
    pub file: Option<PathBuf>,
}

impl Settings {
    /// Reads all layers: defaults, then `file` or the user's own file, then
    /// the variables of `env`, then `flags`; the later wins, key by key.
    ///
    /// A `file` that does not exist is an error; the user's own may be absent.
    /// Nothing is skipped for being wrong: the first bad value is an error,
    /// whichever layer has it.
    pub fn load(
        file: Option<&Path>,
        env: &dyn Fn(&str) -> Option<OsString>,
        flags: &Flags,
    ) -> Result<Loaded, ConfigError> {
        let mut warnings = Vec::new();
        let example = document::parse(Path::new("config.example.toml"), EXAMPLE)?;
        let defaults = layer::from_document(&Origin::Default, example, &mut warnings)?;

        let source = source::open(file, env)?;
        let mut layers = Vec::new();
        if let (Some(path), Some(text)) = (&source.path, &source.text) {
            let root = document::parse(path, text)?;
            let layer = layer::from_document(&Origin::File(path.clone()), root, &mut warnings)?;
            for key in layer::secrets_in(&layer) {
                warnings.extend(source::exposed(path, key));
            }
            layers.push(layer);
        }
        layers.push(layer::from_env(env)?);
        layers.push(layer::from_flags(flags)?);

        let merged = layer::Merged::new(defaults, layers);
        let settings = resolve::settings(&merged, env, &mut warnings)?;
        for (path, holds) in resolve::private_files(&settings) {
            warnings.extend(source::exposed(path, holds));
        }
        Ok(Loaded {
            origins: resolve::origins(&merged),
            settings,
            warnings,
            file: source.path,
        })
    }
}
