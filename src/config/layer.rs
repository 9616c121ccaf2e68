//! Layers of settings, and the one place where a stronger one wins: built-in
//! defaults, then the file, then the environment, then flags.
//!
//! A layer is flat: dotted keys, each with its value and place. Entries of
//! `[env]` and `[mcp.bases]` are keys of their own and are replaced whole.
//! Values are checked as a layer is read, so a bad one is reported where it
//! stands even if a stronger layer hides it.

use std::collections::BTreeMap;

use toml::Value;

use super::document::Node;
use super::error::{ConfigError, Warning};
use super::keys::{self, KEYS, Key, Kind};
use super::origin::{Origin, Place};
use super::paths::Env;
use crate::secret::Secret;

/// Settings given on the command line, in order; of two for one key the later wins.
#[derive(Debug, Clone, Default)]
pub struct Flags(Vec<(String, Value, String)>);

impl Flags {
    /// `key` is dotted; `flag` is what the user typed, for messages.
    pub fn set(&mut self, key: &str, value: impl Into<Value>, flag: &str) -> &mut Self {
        self.0.push((key.to_owned(), value.into(), flag.to_owned()));
        self
    }
}

/// A value and where it was found.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub node: Node,
    pub place: Place,
}

impl Item {
    /// The place of a field of this entry.
    pub fn field_place(&self, node: &Node) -> Place {
        Place {
            line: node.line,
            ..self.place.clone()
        }
    }

    /// Warnings for the fields of this entry, called `key`, that are none of `known`.
    pub fn unknown_fields(&self, key: &str, known: &[&str]) -> Vec<Warning> {
        let fields = self.node.children.iter();
        fields
            .filter(|(field, _)| !known.contains(&field.as_str()))
            .map(|(field, node)| Warning::UnknownKey {
                place: self.field_place(node),
                key: format!("{key}.{field}"),
                nearest: keys::nearest(field, known.iter().copied())
                    .map(|nearest| format!("{key}.{nearest}")),
            })
            .collect()
    }
}

/// Dotted key to value.
pub(super) type Layer = BTreeMap<String, Item>;

/// The error for a value that `key` does not admit.
pub(super) fn refused(key: &Key, place: Place, value: &Value) -> ConfigError {
    let value = match key.kind {
        _ if key.secret => Secret::MASK.to_owned(),
        Kind::Env | Kind::Bases => of_type(value),
        _ => value.to_string(),
    };
    ConfigError::Value {
        place,
        key: key.name.to_owned(),
        value,
        allowed: key.kind.allowed(),
    }
}

fn of_type(value: &Value) -> String {
    format!("of type {}", value.type_str())
}

/// The layer of a TOML document. Keys nobody knows become warnings.
pub(super) fn from_document(
    origin: &Origin,
    root: Node,
    warnings: &mut Vec<Warning>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    collect(origin, "", root, &mut layer, warnings)?;
    Ok(layer)
}

fn collect(
    origin: &Origin,
    above: &str,
    table: Node,
    layer: &mut Layer,
    warnings: &mut Vec<Warning>,
) -> Result<(), ConfigError> {
    for (name, node) in table.children {
        let dotted = if above.is_empty() {
            name
        } else {
            format!("{above}.{name}")
        };
        let place = Place {
            origin: origin.clone(),
            line: node.line,
        };
        match keys::find(&dotted) {
            Some(key) if !key.kind.admits(&node.value) => {
                return Err(refused(key, place, &node.value));
            }
            Some(Key {
                kind: Kind::Env | Kind::Bases,
                ..
            }) => {
                for (entry, node) in node.children {
                    let place = Place {
                        origin: origin.clone(),
                        line: node.line,
                    };
                    layer.insert(format!("{dotted}.{entry}"), Item { node, place });
                }
            }
            Some(_) => {
                layer.insert(dotted, Item { node, place });
            }
            None if node.value.is_table() && !node.children.is_empty() => {
                collect(origin, &dotted, node, layer, warnings)?;
            }
            None if !keys::is_section(&dotted) => warnings.push(Warning::UnknownKey {
                place,
                nearest: keys::nearest(&dotted, KEYS.iter().map(|key| key.name)),
                key: dotted,
            }),
            None if !node.value.is_table() => {
                return Err(ConfigError::Value {
                    place,
                    key: dotted,
                    value: of_type(&node.value),
                    allowed: "a table".into(),
                });
            }
            None => {}
        }
    }
    Ok(())
}

/// The secret keys that a layer sets to something.
pub(super) fn secrets_in(layer: &Layer) -> impl Iterator<Item = &'static str> {
    let set = |key: &&Key| {
        let item = layer.get(key.name);
        key.secret && item.is_some_and(|item| item.node.value.as_str() != Some(""))
    };
    KEYS.iter().filter(set).map(|key| key.name)
}

/// The layer of the `PIXELS_*` variables. An empty one counts as unset.
pub(super) fn from_env(env: &Env<'_>) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for key in KEYS {
        let Some(variable) = key.variable else {
            continue;
        };
        let Some(raw) = env(variable).filter(|raw| !raw.is_empty()) else {
            continue;
        };
        let place = Place {
            origin: Origin::Env(variable.to_owned()),
            line: None,
        };
        let lossy = raw.to_string_lossy();
        let value = raw.to_str().and_then(|text| key.kind.parse(text));
        match value.filter(|value| key.kind.admits(value)) {
            Some(value) => {
                let node = Node::leaf(value);
                layer.insert(key.name.to_owned(), Item { node, place });
            }
            None => return Err(refused(key, place, &lossy.as_ref().into())),
        }
    }
    Ok(layer)
}

/// The layer of the command's flags.
pub(super) fn from_flags(flags: &Flags) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for (name, value, flag) in &flags.0 {
        let place = Place {
            origin: Origin::Flag(flag.clone()),
            line: None,
        };
        let key = match keys::find(name) {
            Some(key) if !matches!(key.kind, Kind::Env | Kind::Bases) => key,
            _ => {
                let key = name.clone();
                return Err(ConfigError::NoSuchKey { place, key });
            }
        };
        if !key.kind.admits(value) {
            return Err(refused(key, place, value));
        }
        let node = Node::leaf(value.clone());
        layer.insert(name.clone(), Item { node, place });
    }
    Ok(layer)
}

/// All layers as one, and the weakest kept for values that mean "the default".
#[derive(Debug)]
pub(super) struct Merged {
    items: Layer,
    defaults: Layer,
}

impl Merged {
    /// `stronger` from the weakest to the strongest.
    pub fn new(defaults: Layer, stronger: impl IntoIterator<Item = Layer>) -> Self {
        let mut items = defaults.clone();
        stronger.into_iter().for_each(|layer| items.extend(layer));
        Self { items, defaults }
    }

    pub fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    pub fn default(&self, key: &str) -> Option<&Item> {
        self.defaults.get(key)
    }

    /// The entries of a table that is merged entry by entry, by name.
    pub fn entries(&self, table: &str) -> impl Iterator<Item = (&str, &Item)> {
        let prefix = format!("{table}.");
        self.items.iter().filter_map(move |(key, item)| {
            let name = key.strip_prefix(&prefix)?;
            Some((name, item))
        })
    }
}
