//! TOML text parsed to a tree of values, each with its key and location.

use std::collections::BTreeMap;
use std::fmt::Display;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::origin::{ConfigError, Location, Origin, Result, Warning};

#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Dotted key from the root of the document.
    pub key: String,
    /// Location of the key.
    pub location: Location,
    pub value: Value,
    /// The entries of a table, by name. `value` contains the entries too.
    pub children: BTreeMap<String, Node>,
}

impl Node {
    /// Creates a value that is not in a file.
    pub fn new(key: &str, origin: Origin, value: Value) -> Self {
        let (position, children) = (None, BTreeMap::new());
        Self {
            key: key.to_owned(),
            location: Location { origin, position },
            value,
            children,
        }
    }

    /// Creates an error about the value. `problem` reads after the key.
    pub fn invalid(&self, problem: impl Display) -> ConfigError {
        ConfigError::Invalid {
            location: self.location.clone(),
            problem: format!("{} {problem}", self.key),
        }
    }

    /// Creates a type error that does not show the value.
    pub fn wrong_type(&self, expected: &str) -> ConfigError {
        let found = self.value.type_str();
        self.invalid(format!("is of type {found}, but must be {expected}"))
    }

    /// Creates a warning about the value. `problem` reads after the key.
    pub fn warning(&self, problem: impl Display) -> Warning {
        Warning(format!("{}: {} {problem}", self.location, self.key))
    }

    fn add_children(&mut self, text: &str, spans: &DeTable<'_>) {
        for (name, span) in spans {
            let Some(value) = self.value.get(name.get_ref().as_ref()) else {
                continue;
            };
            let dot = if self.key.is_empty() { "" } else { "." };
            let key = format!("{}{dot}{}", self.key, name.get_ref());
            let mut child = Self::new(&key, Origin::Default, value.clone());
            child.location = location(&self.location.origin, text, name.span().start);
            if let DeValue::Table(spans) = span.get_ref() {
                child.add_children(text, spans);
            }
            self.children.insert(name.get_ref().to_string(), child);
        }
    }
}

pub(super) fn parse(origin: &Origin, text: &str) -> Result<Node> {
    // The error's own display quotes the line, which may contain a secret.
    let syntax = |error: toml::de::Error| ConfigError::Invalid {
        location: location(origin, text, error.span().map_or(0, |span| span.start)),
        problem: error.message().replace('\n', ", "),
    };
    let spans = DeTable::parse(text).map_err(syntax)?;
    let table = toml::from_str(text).map_err(syntax)?;
    let mut root = Node::new("", origin.clone(), Value::Table(table));
    root.add_children(text, spans.get_ref());
    Ok(root)
}

/// Converts a byte offset to a location.
pub(super) fn location(origin: &Origin, text: &str, offset: usize) -> Location {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.split('\n').next_back().unwrap_or_default();
    let position = (before.matches('\n').count() + 1, line.chars().count() + 1);
    Location {
        origin: origin.clone(),
        position: Some(position),
    }
}
