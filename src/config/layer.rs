//! The layers of settings, in order: built-in defaults, file, environment,
//! flags. For each key, the last layer that sets it overrides the others.
//!
//! Each entry of `[env]` and `[mcp.bases]` is a key of its own and is replaced
//! as a whole. Values are checked when a layer is added, so an invalid value is
//! an error even if a later layer overrides it.

use std::collections::BTreeMap;

use serde::Serialize;
use toml::Value;

use super::key::{Key, is_empty, unknown_key};
use super::origin::{Origin, Result, Warning};
use super::settings_file::warn_if_exposed;
use super::spanned_toml::Node;
use super::value_kind::ValueKind;
use crate::user_dirs::Env;

/// Settings from the command line. The last value of a key is used.
#[derive(Debug, Clone, Default)]
pub struct Flags(Vec<Node>);

impl Flags {
    /// `key` is a dotted name. `flag` is the flag as typed, for messages.
    pub fn set(&mut self, key: &str, value: impl Into<Value>, flag: &str) {
        let origin = Origin::Flag(flag.to_owned());
        self.0.push(Node::new(key, origin, value.into()));
    }
}

/// The value of one key after all layers are merged.
#[derive(Debug, Clone, Serialize)]
pub struct EffectiveSetting {
    /// Dotted name, such as `network.egress`, `env.EDITOR`, `mcp.bases.dev`.
    pub key: String,
    /// As written in its layer, with secrets masked. Displayed as TOML.
    pub value: Value,
    pub origin: Origin,
}

/// The merged layers, from which typed settings are read.
pub(super) struct Layers<'a> {
    pub keys: &'a [Key],
    pub env: &'a Env<'a>,
    /// Values by key.
    pub values: BTreeMap<&'a str, Node>,
    pub warnings: Vec<Warning>,
}

impl<'a> Layers<'a> {
    /// Adds a TOML document. Each unknown key causes a warning.
    pub fn add_document(&mut self, table: Node) -> Result<()> {
        for node in table.children.into_values() {
            let section = format!("{}.", node.key);
            if let Some(key) = self.find(&node.key) {
                self.insert(key, node)?;
            } else if !node.children.is_empty() {
                self.add_document(node)?;
            } else if !self.keys.iter().any(|key| key.name.starts_with(&section)) {
                let known = Vec::from_iter(self.keys.iter().map(|key| key.name));
                self.warnings.push(unknown_key(&node, &node.key, &known));
            } else if !node.value.is_table() {
                return Err(node.wrong_type("a table"));
            }
        }
        Ok(())
    }

    /// Adds the environment variables of all keys. An empty variable counts as unset.
    pub fn add_env(&mut self) -> Result<()> {
        for key in self.keys {
            if let Some(variable) = key.variable
                && let Some(raw) = (self.env)(variable).filter(|raw| !raw.is_empty())
            {
                let value = key.kind.parse_variable(&raw.to_string_lossy());
                let node = Node::new(key.name, Origin::Env(variable), value);
                if raw.to_str().is_none() {
                    return Err(node.invalid("is not valid UTF-8"));
                }
                self.insert(key, node)?;
            }
        }
        Ok(())
    }

    pub fn add_flags(&mut self, flags: &Flags) -> Result<()> {
        for node in &flags.0 {
            match self.find(&node.key).filter(|key| !key.kind.is_table()) {
                Some(key) => self.insert(key, node.clone())?,
                None => return Err(node.invalid("is not a settings key")),
            }
        }
        Ok(())
    }

    /// Warns about fields of an entry that are not in the list `known`.
    pub fn warn_unknown_fields(&mut self, entry: &Node, known: &str) {
        let known = Vec::from_iter(known.split(' '));
        for (name, field) in &entry.children {
            if !known.contains(&name.as_str()) {
                self.warnings.push(unknown_key(field, name, &known));
            }
        }
    }

    fn find(&self, name: &str) -> Option<&'a Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    fn insert(&mut self, key: &'a Key, node: Node) -> Result<()> {
        key.check(&node)?;
        let empty = is_empty(&node.value);
        let has_secret = matches!(key.kind, ValueKind::Secret) && !empty;
        if let (true, Origin::File(file)) = (has_secret, &node.location.origin) {
            self.warnings.extend(warn_if_exposed(file, key.name));
        }
        match self.values.get_mut(key.name) {
            Some(table) if key.kind.is_table() => table.children.extend(node.children),
            Some(_) if key.empty_is_default && empty => {}
            _ => drop(self.values.insert(key.name, node)),
        }
        Ok(())
    }

    /// Returns every key, in the order of declaration.
    pub fn effective(&self) -> Vec<EffectiveSetting> {
        let mut settings = Vec::new();
        for key in self.keys {
            let node = &self.values[key.name];
            let nodes = match key.kind.is_table() {
                true => node.children.values().collect(),
                false => vec![node],
            };
            settings.extend(nodes.into_iter().map(|node| EffectiveSetting {
                key: node.key.clone(),
                value: key.kind.masked(&node.value),
                origin: node.location.origin.clone(),
            }));
        }
        settings
    }
}
