//! Strict parameters: no unknown keys, no other types, no more arguments.

use serde_json::Value;

use super::answer::{Fail, invalid};

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    /// Or null.
    MaybeText,
    Int,
    MaybeInt,
    Bool,
    List,
    Object,
    Any,
}

/// A key, what it holds, and whether it must be there.
pub type Field = (&'static str, Kind, bool);

/// At most so many arguments, at least so many.
pub fn count(params: &[Value], least: usize, most: usize) -> Result<(), Fail> {
    if params.len() > most {
        let text = format!(
            "Too many arguments (expected {most}, found {})",
            params.len()
        );
        return Err(invalid("", text));
    }
    if params.len() < least {
        return Err(invalid("", "Field required"));
    }
    Ok(())
}

pub fn text<'a>(params: &'a [Value], at: usize, name: &str) -> Result<&'a str, Fail> {
    params
        .get(at)
        .and_then(Value::as_str)
        .ok_or_else(|| invalid(name, "Input should be a valid string"))
}

pub fn int(params: &[Value], at: usize, name: &str) -> Result<i64, Fail> {
    params
        .get(at)
        .and_then(Value::as_i64)
        .ok_or_else(|| invalid(name, "Input should be a valid integer"))
}

/// An object of these fields and no other.
pub fn object(value: Option<&Value>, name: &str, fields: &[Field]) -> Result<Value, Fail> {
    let empty = serde_json::json!({});
    let value = value.unwrap_or(&empty);
    let Some(members) = value.as_object() else {
        return Err(invalid(name, "Input should be a valid dictionary"));
    };
    let mut rows = Vec::new();
    let mut row = |key: &str, message: &str| {
        rows.push((Some(format!("{name}.{key}")), message.to_owned(), 22));
    };
    for (key, value) in members {
        match fields.iter().find(|(field, ..)| field == key) {
            None => row(key, "Extra inputs are not permitted"),
            Some((_, kind, _)) if !kind.takes(value) => row(key, "Input should be of another type"),
            Some(_) => {
                if value
                    .as_str()
                    .is_some_and(|text| text.chars().count() > 1024)
                {
                    row(key, "Value too long");
                }
            }
        }
    }
    for (field, _, required) in fields {
        if *required && !members.contains_key(*field) {
            row(field, "Field required");
        }
    }
    match rows.is_empty() {
        true => Ok(value.clone()),
        false => Err(Fail::Invalid { rows, list: true }),
    }
}

impl Kind {
    fn takes(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::MaybeText => value.is_string() || value.is_null(),
            Self::Int => value.is_i64() || value.is_u64(),
            Self::MaybeInt => value.is_i64() || value.is_u64() || value.is_null(),
            Self::Bool => value.is_boolean(),
            Self::List => value.is_array(),
            Self::Object => value.is_object(),
            Self::Any => true,
        }
    }
}
