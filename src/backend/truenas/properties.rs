//! Stores properties in the instance's environment. Clients read all properties
//! with one query, and the guest cannot change them.
//!
//! Init in the guest receives the environment, which must not contain secrets.

use std::collections::BTreeMap;

use crate::model::{Error, Properties, Result};

pub(super) type Environment = BTreeMap<String, String>;

/// Prefix of properties. The backend's own variables have the prefix `pixels__`.
const PREFIX: &str = "pixels_";
/// Maximum length of a chunk. The server accepts 1024 characters per variable,
/// so a longer value continues in `NAME/1`.
const CHUNK: usize = 1000;

/// The backend's own variables in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PropertyKey {
    /// A unique id, which differs from all earlier instances with the same name.
    Id,
    /// The host name for the first boot.
    Name,
    /// The value is `pending` until the pixel is accessible by SSH.
    Bootstrap,
    /// The image from which the instance was created.
    Image,
}

pub(super) const PENDING: &str = "pending";
pub(super) const DONE: &str = "done";

impl PropertyKey {
    fn variable(self) -> &'static str {
        match self {
            Self::Id => "pixels__id",
            Self::Name => "pixels__name",
            Self::Bootstrap => "pixels__contact",
            Self::Image => "pixels__image",
        }
    }

    pub fn get(self, environment: &Environment) -> Option<&str> {
        environment.get(self.variable()).map(String::as_str)
    }

    pub fn set(self, environment: &mut Environment, value: &str) {
        environment.insert(self.variable().to_owned(), value.to_owned());
    }
}

/// Prefix of a checkpoint's properties, followed by the label in hexadecimal.
const CHECKPOINT: &str = "pixels__at_";

/// Stores the current properties for a new checkpoint. Removes the properties
/// of all checkpoints that are not in `labels`.
pub(super) fn snapshot(environment: &mut Environment, label: &str, labels: &[&str]) -> Result<()> {
    let existing: Vec<String> = labels.iter().map(|label| checkpoint(label)).collect();
    environment.retain(|name, _| {
        let base = name.split('/').next().unwrap_or(name);
        !base.starts_with(CHECKPOINT) || existing.iter().any(|existing| existing == base)
    });
    let current = read(environment);
    let text = serde_json::to_string(&current).map_err(|e| Error::Protocol(e.to_string()))?;
    insert(environment, &checkpoint(label), &text);
    Ok(())
}

/// Returns the stored properties of a checkpoint, if any.
pub(super) fn at_checkpoint(environment: &Environment, label: &str) -> Option<Properties> {
    let name = checkpoint(label);
    let first = environment.get(&name)?;
    serde_json::from_str(&joined(environment, &name, first)).ok()
}

/// Restores the stored properties of a checkpoint, if any.
pub(super) fn restore(environment: &mut Environment, label: &str) -> Result<()> {
    let Some(stored) = at_checkpoint(environment, label) else {
        return Ok(());
    };
    environment.retain(|name, _| !is_property(name));
    merge(environment, &stored)
}

/// Returns the environment of a clone: the source's own variables, and the
/// source's current properties or a checkpoint's properties.
pub(super) fn inherited(environment: &Environment, label: Option<&str>) -> Result<Environment> {
    let properties = label
        .and_then(|label| at_checkpoint(environment, label))
        .unwrap_or_else(|| read(environment));
    let mut inherited = environment.clone();
    inherited.retain(|name, _| !is_property(name) && !name.starts_with(CHECKPOINT));
    merge(&mut inherited, &properties)?;
    Ok(inherited)
}

fn is_property(variable: &str) -> bool {
    variable
        .strip_prefix(PREFIX)
        .is_some_and(|key| !key.starts_with('_'))
}

fn checkpoint(label: &str) -> String {
    let hex: String = label.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{CHECKPOINT}{hex}")
}

/// Sets properties. An empty value removes the property.
pub(super) fn merge(environment: &mut Environment, properties: &Properties) -> Result<()> {
    for (key, value) in properties {
        insert(environment, &variable(key)?, value);
    }
    Ok(())
}

/// Stores a value in several variables if needed. Removes an empty value.
fn insert(environment: &mut Environment, variable: &str, value: &str) {
    let continued = format!("{variable}/");
    environment.retain(|name, _| name != variable && !name.starts_with(&continued));
    let mut rest = escape(value);
    let mut number = 0;
    while !rest.is_empty() {
        let tail = rest.split_off(rest.len().min(CHUNK));
        let name = match number {
            0 => variable.to_owned(),
            n => format!("{variable}/{n}"),
        };
        environment.insert(name, rest);
        rest = tail;
        number += 1;
    }
}

pub(super) fn read(environment: &Environment) -> Properties {
    environment
        .iter()
        .filter(|(name, _)| is_property(name) && !name.contains('/'))
        .filter_map(|(name, first)| {
            let key = name.strip_prefix(PREFIX)?;
            Some((key.replace('_', "-"), joined(environment, name, first)))
        })
        .collect()
}

fn joined(environment: &Environment, name: &str, first: &str) -> String {
    let mut value = first.to_owned();
    for number in 1.. {
        match environment.get(&format!("{name}/{number}")) {
            Some(more) => value.push_str(more),
            None => break,
        }
    }
    unescape(&value)
}

fn variable(key: &str) -> Result<String> {
    let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if key.is_empty() || key.starts_with('-') || !key.chars().all(is_valid) {
        return Err(Error::Invalid(
            format!("invalid property name {key:?}").into(),
        ));
    }
    Ok(format!("{PREFIX}{}", key.replace('-', "_")))
}

/// Encodes all bytes except printable ASCII without spaces as `%XX`.
fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
            plain => text.push(char::from(plain)),
        }
    }
    text
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut value = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        value.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_roundtrip_as_short_printable_variables() {
        let long = format!("{{\"allow\":\"{}\"}}", "é 100%".repeat(900));
        let properties = Properties::from([
            ("created-by".into(), "box 1-2 3\n4".into()),
            ("egress".into(), long),
            ("x".into(), "%41".into()),
        ]);
        let mut environment = Environment::from([("LANG".into(), "C".into())]);
        PropertyKey::Bootstrap.set(&mut environment, PENDING);
        merge(&mut environment, &properties).unwrap();
        assert_eq!(read(&environment), properties);
        for (name, value) in &environment {
            assert!(value.len() <= 1024 && !value.trim().is_empty(), "{name}");
            assert!(value.chars().all(|c| c.is_ascii_graphic()), "{name}");
        }
        // A shorter value must remove the continuation of a longer value.
        let shorter =
            Properties::from([("egress".into(), "a".into()), ("x".into(), String::new())]);
        merge(&mut environment, &shorter).unwrap();
        let current = read(&environment);
        assert_eq!((current["egress"].as_str(), current.len()), ("a", 2));
        assert_eq!(environment["LANG"], "C");
        assert_eq!(PropertyKey::Bootstrap.get(&environment), Some(PENDING));
    }

    #[test]
    fn checkpoint_keeps_its_properties() {
        let of = |value: &str| Properties::from([("egress".to_owned(), value.to_owned())]);
        let mut environment = Environment::new();
        PropertyKey::Id.set(&mut environment, "7");
        merge(&mut environment, &of("then")).unwrap();
        snapshot(&mut environment, "a.b", &["a.b"]).unwrap();
        merge(&mut environment, &of("now")).unwrap();
        snapshot(&mut environment, "c", &["a.b", "c"]).unwrap();
        assert_eq!(at_checkpoint(&environment, "a.b"), Some(of("then")));
        assert_eq!(read(&environment), of("now"));
        let clone = inherited(&environment, Some("a.b")).unwrap();
        assert_eq!(read(&clone), of("then"));
        assert_eq!((PropertyKey::Id.get(&clone), clone.len()), (Some("7"), 2));
        assert_eq!(read(&inherited(&environment, None).unwrap()), of("now"));
        let mut restored = environment.clone();
        restore(&mut restored, "a.b").unwrap();
        assert_eq!(
            (read(&restored), PropertyKey::Id.get(&restored)),
            (of("then"), Some("7"))
        );
        snapshot(&mut environment, "d", &["c", "d"]).unwrap();
        assert_eq!(at_checkpoint(&environment, "a.b"), None);
        assert!(at_checkpoint(&environment, "c").is_some());
    }

    #[test]
    fn invalid_property_names_rejected() {
        for bad in ["", "a_b", "A", "-a", "a/1"] {
            let properties = Properties::from([(bad.to_owned(), "x".to_owned())]);
            assert!(
                merge(&mut Environment::new(), &properties).is_err(),
                "{bad}"
            );
        }
    }
}
