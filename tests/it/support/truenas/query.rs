//! Implements the filters and options of `*.query` that pixels uses.

use std::cmp::Reverse;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Outcome, invalid};

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Query {
    /// Field, operator and value.
    pub filters: Vec<(String, String, Value)>,
    pub options: Options,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    pub extra: Value,
    order_by: Vec<String>,
    pub select: Vec<String>,
    limit: usize,
}

impl Query {
    /// The value that an `=` filter requires for a field.
    pub fn wanted(&self, field: &str) -> Option<&str> {
        let mut filters = self.filters.iter();
        let found = filters.find(|(name, op, _)| name == field && op == "=");
        found.and_then(|(_, _, value)| value.as_str())
    }

    pub fn answer(&self, all: impl IntoIterator<Item = Value>) -> Outcome {
        let known = |op: &str| ["=", "^", "in"].contains(&op);
        if !self.filters.iter().all(|(_, op, _)| known(op)) {
            return Err(invalid("filters", "Invalid operation"));
        }
        let mut found: Vec<Value> = all.into_iter().filter(|one| self.takes(one)).collect();
        for key in &self.options.order_by {
            let key = key.strip_prefix('-');
            let key = key.ok_or_else(|| invalid("order_by", "not simulated"))?;
            if !found.iter().all(|one| one[key].is_i64()) {
                return Err(invalid("order_by", "not simulated"));
            }
            found.sort_by_key(|one| Reverse(one[key].as_i64()));
        }
        if self.options.limit > 0 {
            found.truncate(self.options.limit);
        }
        if !self.options.select.is_empty() {
            for members in found.iter_mut().filter_map(Value::as_object_mut) {
                members.retain(|key, _| self.options.select.contains(key));
            }
        }
        Ok(json!(found))
    }

    fn takes(&self, one: &Value) -> bool {
        self.filters.iter().all(|(field, op, wanted)| {
            let have = &one[field.as_str()];
            match op.as_str() {
                "=" => have == wanted,
                "in" => wanted.as_array().is_some_and(|all| all.contains(have)),
                _ => match (have.as_str(), wanted.as_str()) {
                    (Some(have), Some(wanted)) => have.starts_with(wanted),
                    _ => false,
                },
            }
        })
    }
}
