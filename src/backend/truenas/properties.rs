//! What pixels knows about a pixel, as entries of the instance's environment:
//! there every client sees it, one query lists it, and nobody inside can
//! change it.
//!
//! Init alone inherits these entries, so they must not hold secrets.

use std::collections::BTreeMap;

use crate::sandbox::{Error, Properties, Result};

pub(super) type Environment = BTreeMap<String, String>;

/// Properties begin with it; after a second `_`, what the backend keeps for itself.
const PREFIX: &str = "pixels_";
/// The server takes 1024 characters; a longer value goes on in `NAME/1`.
const CHUNK: usize = 1000;

/// What this backend itself notes on a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Tells this instance from all that had or will have its name.
    Id,
    /// The name its first boot gives it.
    Name,
    /// `pending` until there is a way in.
    Contact,
    /// What it was made from.
    Image,
}

pub(super) const PENDING: &str = "pending";
pub(super) const DONE: &str = "done";

impl Note {
    pub fn entry(self) -> &'static str {
        match self {
            Self::Id => "pixels__id",
            Self::Name => "pixels__name",
            Self::Contact => "pixels__contact",
            Self::Image => "pixels__image",
        }
    }

    pub fn of(self, environment: &Environment) -> Option<&str> {
        environment.get(self.entry()).map(String::as_str)
    }

    pub fn set(self, environment: &mut Environment, value: &str) {
        environment.insert(self.entry().to_owned(), value.to_owned());
    }
}

/// Writes properties over those that are there; an empty value removes.
pub(super) fn merge(environment: &mut Environment, properties: &Properties) -> Result<()> {
    for (key, value) in properties {
        let entry = entry(key)?;
        let more = format!("{entry}/");
        environment.retain(|name, _| *name != entry && !name.starts_with(&more));
        let mut rest = escape(value);
        let mut number = 0;
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(CHUNK));
            let name = match number {
                0 => entry.clone(),
                n => format!("{entry}/{n}"),
            };
            environment.insert(name, rest);
            rest = tail;
            number += 1;
        }
    }
    Ok(())
}

pub(super) fn read(environment: &Environment) -> Properties {
    environment
        .iter()
        .filter(|(name, _)| !name.contains('/'))
        .filter_map(|(name, first)| {
            let key = name
                .strip_prefix(PREFIX)
                .filter(|key| !key.starts_with('_'))?;
            let mut value = first.clone();
            for number in 1.. {
                match environment.get(&format!("{name}/{number}")) {
                    Some(more) => value.push_str(more),
                    None => break,
                }
            }
            Some((key.replace('_', "-"), unescape(&value)))
        })
        .collect()
}

fn entry(key: &str) -> Result<String> {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if key.is_empty() || key.starts_with('-') || !key.chars().all(sound) {
        return Err(Error::Invalid(format!(
            "property {key:?} has no valid name"
        )));
    }
    Ok(format!("{PREFIX}{}", key.replace('-', "_")))
}

/// Printable ASCII without blanks; `%XX` for every other byte.
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
    fn any_value_survives_and_is_fit_for_an_environment() {
        let long = format!("{{\"allow\":\"{}\"}}", "é 100%".repeat(900));
        let wanted = Properties::from([
            ("created-by".into(), "box 1-2 3\n4".into()),
            ("egress".into(), long),
            ("x".into(), "%41".into()),
        ]);
        let mut environment = Environment::from([("LANG".into(), "C".into())]);
        Note::Contact.set(&mut environment, PENDING);
        merge(&mut environment, &wanted).unwrap();
        assert_eq!(read(&environment), wanted);
        for (name, value) in &environment {
            assert!(value.len() <= 1024 && !value.trim().is_empty(), "{name}");
            assert!(value.chars().all(|c| c.is_ascii_graphic()), "{name}");
        }
        // A shorter value leaves nothing of the longer one.
        let shorter =
            Properties::from([("egress".into(), "a".into()), ("x".into(), String::new())]);
        merge(&mut environment, &shorter).unwrap();
        let now = read(&environment);
        assert_eq!((now["egress"].as_str(), now.len()), ("a", 2));
        assert_eq!(environment["LANG"], "C");
        assert_eq!(Note::Contact.of(&environment), Some(PENDING));
    }

    #[test]
    fn names_that_cannot_come_back_are_refused() {
        for bad in ["", "a_b", "A", "-a", "a/1"] {
            let properties = Properties::from([(bad.to_owned(), "x".to_owned())]);
            assert!(
                merge(&mut Environment::new(), &properties).is_err(),
                "{bad}"
            );
        }
    }
}
