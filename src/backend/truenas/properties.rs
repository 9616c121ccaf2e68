//! What pixels knows about a pixel, as entries of the instance's environment:
//! there every client sees it, one query lists it, and nobody inside can
//! change it.
//!
//! Init alone inherits these entries, so they must not hold secrets.

use std::collections::BTreeMap;

use crate::model::{Error, Properties, Result};

pub(super) type Environment = BTreeMap<String, String>;

/// Properties begin with it; after a second `_`, what the backend keeps for itself.
const PREFIX: &str = "pixels_";
/// The server takes 1024 characters; a longer value goes on in `NAME/1`.
const CHUNK: usize = 1000;

/// What this backend itself notes on a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PropertyKey {
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

impl PropertyKey {
    pub fn entry(self) -> &'static str {
        match self {
            Self::Id => "pixels__id",
            Self::Name => "pixels__name",
            Self::Contact => "pixels__contact",
            Self::Image => "pixels__image",
        }
    }

    pub fn read_properties(self, environment: &Environment) -> Option<&str> {
        environment.get(self.entry()).map(String::as_str)
    }

    pub fn set(self, environment: &mut Environment, value: &str) {
        environment.insert(self.entry().to_owned(), value.to_owned());
    }
}

/// What a checkpoint's pixel was when it was taken; the label in hex follows.
const CHECKPOINT: &str = "pixels__at_";

/// Notes the properties of now as those of a checkpoint that was just taken,
/// and drops what is noted of checkpoints that are no more.
pub(super) fn snapshot(environment: &mut Environment, label: &str, labels: &[&str]) -> Result<()> {
    let known: Vec<String> = labels.iter().map(|label| checkpoint(label)).collect();
    environment.retain(|name, _| {
        let head = name.split('/').next().unwrap_or(name);
        !head.starts_with(CHECKPOINT) || known.iter().any(|known| known == head)
    });
    let now = read(environment);
    let text = serde_json::to_string(&now).map_err(|e| Error::Protocol(e.to_string()))?;
    put(environment, &checkpoint(label), &text);
    Ok(())
}

/// What was noted of a checkpoint.
pub(super) fn at_checkpoint(environment: &Environment, label: &str) -> Option<Properties> {
    let name = checkpoint(label);
    let first = environment.get(&name)?;
    serde_json::from_str(&whole(environment, &name, first)).ok()
}

/// The properties go back to what they were at a checkpoint, where that is noted.
pub(super) fn restore(environment: &mut Environment, label: &str) -> Result<()> {
    let Some(then) = at_checkpoint(environment, label) else {
        return Ok(());
    };
    environment.retain(|name, _| {
        name.strip_prefix(PREFIX)
            .is_none_or(|key| key.starts_with('_'))
    });
    merge(environment, &then)
}

/// What an instance hands down to one that is cloned from it: notes, and its
/// properties of now or those of a checkpoint.
pub(super) fn inherited(environment: &Environment, label: Option<&str>) -> Result<Environment> {
    let properties = label
        .and_then(|label| at_checkpoint(environment, label))
        .unwrap_or_else(|| read(environment));
    let mut handed = environment.clone();
    handed.retain(|name, _| {
        let note = name
            .strip_prefix(PREFIX)
            .is_none_or(|key| key.starts_with('_'));
        note && !name.starts_with(CHECKPOINT)
    });
    merge(&mut handed, &properties)?;
    Ok(handed)
}

fn checkpoint(label: &str) -> String {
    let hex: String = label.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{CHECKPOINT}{hex}")
}

/// Writes properties over those that are there; an empty value removes.
pub(super) fn merge(environment: &mut Environment, properties: &Properties) -> Result<()> {
    for (key, value) in properties {
        put(environment, &entry(key)?, value);
    }
    Ok(())
}

/// A value in as many entries as it takes; none when it is empty.
fn put(environment: &mut Environment, entry: &str, value: &str) {
    let more = format!("{entry}/");
    environment.retain(|name, _| name != entry && !name.starts_with(&more));
    let mut rest = escape(value);
    let mut number = 0;
    while !rest.is_empty() {
        let tail = rest.split_off(rest.len().min(CHUNK));
        let name = match number {
            0 => entry.to_owned(),
            n => format!("{entry}/{n}"),
        };
        environment.insert(name, rest);
        rest = tail;
        number += 1;
    }
}

pub(super) fn read(environment: &Environment) -> Properties {
    environment
        .iter()
        .filter(|(name, _)| !name.contains('/'))
        .filter_map(|(name, first)| {
            let key = name
                .strip_prefix(PREFIX)
                .filter(|key| !key.starts_with('_'))?;
            Some((key.replace('_', "-"), whole(environment, name, first)))
        })
        .collect()
}

fn whole(environment: &Environment, name: &str, first: &str) -> String {
    let mut value = first.to_owned();
    for number in 1.. {
        match environment.get(&format!("{name}/{number}")) {
            Some(more) => value.push_str(more),
            None => break,
        }
    }
    unescape(&value)
}

fn entry(key: &str) -> Result<String> {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if key.is_empty() || key.starts_with('-') || !key.chars().all(sound) {
        return Err(Error::Invalid(
            format!("property {key:?} has no valid name").into(),
        ));
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
        PropertyKey::Contact.set(&mut environment, PENDING);
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
        assert_eq!(
            PropertyKey::Contact.read_properties(&environment),
            Some(PENDING)
        );
    }

    #[test]
    fn a_checkpoint_keeps_what_was_known_then() {
        let of = |value: &str| Properties::from([("egress".to_owned(), value.to_owned())]);
        let mut environment = Environment::new();
        PropertyKey::Id.set(&mut environment, "7");
        merge(&mut environment, &of("then")).unwrap();
        snapshot(&mut environment, "a.b", &["a.b"]).unwrap();
        merge(&mut environment, &of("now")).unwrap();
        snapshot(&mut environment, "c", &["a.b", "c"]).unwrap();
        assert_eq!(at_checkpoint(&environment, "a.b"), Some(of("then")));
        assert_eq!(read(&environment), of("now"));
        let handed = inherited(&environment, Some("a.b")).unwrap();
        assert_eq!(read(&handed), of("then"));
        assert_eq!(
            (PropertyKey::Id.read_properties(&handed), handed.len()),
            (Some("7"), 2)
        );
        assert_eq!(read(&inherited(&environment, None).unwrap()), of("now"));
        let mut back = environment.clone();
        restore(&mut back, "a.b").unwrap();
        assert_eq!(
            (read(&back), PropertyKey::Id.read_properties(&back)),
            (of("then"), Some("7"))
        );
        snapshot(&mut environment, "d", &["c", "d"]).unwrap();
        assert_eq!(at_checkpoint(&environment, "a.b"), None);
        assert!(at_checkpoint(&environment, "c").is_some());
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
