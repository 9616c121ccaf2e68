//! The `[env]` table: variables for the pixels, taken literally or from the
//! caller's environment.
//!
//! Values may be secrets: no message and no listing shows them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use toml::Value;

use super::error::{ConfigError, Warning};
use super::layer::{Item, Merged};
use super::origin::Place;
use super::paths::Env;
use super::template::{Template, is_name};
use crate::secret::Secret;

/// The variables asked for, before the caller's environment is looked at.
#[derive(Debug, Clone, Default)]
pub struct GuestEnv(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    source: Source,
    session: bool,
    place: Place,
}

#[derive(Debug, Clone)]
enum Source {
    Value(Template),
    /// The caller's own variable of the same name.
    Forward,
}

/// Variables with their values, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct GuestVariables {
    /// For every process of the pixel; stored in it at its creation.
    pub image: BTreeMap<String, String>,
    /// For consoles and commands of this caller; never stored.
    pub session: BTreeMap<String, String>,
}

impl fmt::Debug for GuestVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestVariables")
            .field("image", &self.image.keys())
            .field("session", &self.session.keys())
            .finish()
    }
}

impl GuestEnv {
    /// The values as of now. `$NAME` that is unset in `env` becomes nothing; a
    /// forwarded variable that is unset is left out, an empty one is kept.
    /// A value that is needed and is not UTF-8 is an error.
    pub fn resolve(&self, env: &Env<'_>) -> Result<GuestVariables, ConfigError> {
        let mut variables = GuestVariables::default();
        for entry in &self.0 {
            let value = match &entry.source {
                Source::Value(template) => template.expand(|name| {
                    let found = env(name).map(|raw| entry.text(name, raw));
                    found.unwrap_or_else(|| Ok(String::new()))
                })?,
                Source::Forward => match env(&entry.name) {
                    Some(raw) => entry.text(&entry.name, raw)?,
                    None => continue,
                },
            };
            let target = if entry.session {
                &mut variables.session
            } else {
                &mut variables.image
            };
            target.insert(entry.name.clone(), value);
        }
        Ok(variables)
    }
}

impl Entry {
    fn text(&self, variable: &str, raw: OsString) -> Result<String, ConfigError> {
        raw.into_string().map_err(|_| ConfigError::Entry {
            place: self.place.clone(),
            key: format!("env.{}", self.name),
            reason: format!("takes the value of {variable}, which is not valid UTF-8"),
        })
    }
}

pub(super) fn read(merged: &Merged, warnings: &mut Vec<Warning>) -> Result<GuestEnv, ConfigError> {
    let mut entries = Vec::new();
    for (name, item) in merged.entries("env") {
        entries.extend(entry(name, item, warnings)?);
    }
    Ok(GuestEnv(entries))
}

/// One entry; `None`, with a warning, when it sets nothing.
fn entry(
    name: &str,
    item: &Item,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Entry>, ConfigError> {
    let key = format!("env.{name}");
    let wrong = |key: String, reason: String| ConfigError::Entry {
        place: item.place.clone(),
        key,
        reason,
    };
    let no_effect = |key: String, reason: &str| Warning::NoEffect {
        place: item.place.clone(),
        key,
        reason: reason.to_owned(),
    };
    if !is_name(name) {
        let rule = "is not the name of a variable: only A-Z, a-z, 0-9 and _ are allowed, \
                    and no digit first";
        return Err(wrong(key, rule.into()));
    }
    let form = match &item.node.value {
        Value::String(text) => Form {
            value: Some(text),
            ..Form::default()
        },
        Value::Table(table) => Form::read(table).map_err(|(field, found, allowed)| {
            let reason = format!("is of type {found}, but must be {allowed}");
            wrong(format!("{key}.{field}"), reason)
        })?,
        other => {
            let reason = format!(
                "is of type {}, but must be a text or a table with `value`, `forward` or \
                 `session_only`",
                other.type_str()
            );
            return Err(wrong(key, reason));
        }
    };
    warnings.extend(item.unknown_fields(&key, FIELDS));
    let source = match form.value {
        _ if form.forward => {
            if form.value.is_some() {
                let reason = "has no effect, because the entry forwards your own value";
                warnings.push(no_effect(format!("{key}.value"), reason));
            }
            Source::Forward
        }
        None => {
            let reason = "is left out, because it has neither a value nor `forward = true`";
            warnings.push(no_effect(key, reason));
            return Ok(None);
        }
        Some("") => {
            warnings.push(no_effect(key, "is left out, because its value is empty"));
            return Ok(None);
        }
        Some(text) if text.contains('\0') => {
            return Err(wrong(key, "has a NUL character in its value".into()));
        }
        Some(text) => {
            Source::Value(Template::parse(text).map_err(|reason| wrong(key, reason.into()))?)
        }
    };
    Ok(Some(Entry {
        name: name.to_owned(),
        source,
        session: form.forward || form.session_only,
        place: item.place.clone(),
    }))
}

const FIELDS: &[&str] = &["value", "forward", "session_only"];

#[derive(Default)]
struct Form<'a> {
    value: Option<&'a str>,
    forward: bool,
    session_only: bool,
}

impl<'a> Form<'a> {
    /// Reads the table; an error is the field, the type found, what it must be.
    fn read(table: &'a toml::Table) -> Result<Self, (&'static str, &'static str, &'static str)> {
        let flag = |field| match table.get(field) {
            None => Ok(false),
            Some(Value::Boolean(set)) => Ok(*set),
            Some(other) => Err((field, other.type_str(), "true or false")),
        };
        Ok(Self {
            value: match table.get("value") {
                None => None,
                Some(Value::String(text)) => Some(text),
                Some(other) => return Err(("value", other.type_str(), "a text")),
            },
            forward: flag("forward")?,
            session_only: flag("session_only")?,
        })
    }
}

/// The entry for a listing: literal text is masked, references are not.
pub(super) fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            let open = Template::parse(text).is_ok_and(|t| t.is_references_only());
            if open {
                value.clone()
            } else {
                Secret::MASK.into()
            }
        }
        Value::Table(table) => {
            let fields = table.iter().map(|(field, value)| {
                let known_flag = matches!(value, Value::Boolean(_));
                let value = if known_flag {
                    value.clone()
                } else {
                    shown(value)
                };
                (field.clone(), value)
            });
            Value::Table(fields.collect())
        }
        _ => Secret::MASK.into(),
    }
}
