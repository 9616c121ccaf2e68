//! Filters and options of every `*.query`.

use serde_json::{Value, json};

use super::answer::{Fail, Outcome, call, invalid};
use super::schema::{self, Kind};

/// Filters and options, checked.
pub struct Query {
    filters: Vec<(String, String, Value)>,
    pub options: Value,
}

impl Query {
    pub fn of(params: &[Value]) -> Result<Self, Fail> {
        schema::count(params, 0, 2)?;
        let empty = json!([]);
        let Some(given) = params.first().unwrap_or(&empty).as_array() else {
            return Err(invalid("filters", "Input should be a valid list"));
        };
        let mut filters = Vec::new();
        for filter in given {
            let parts = filter.as_array().filter(|parts| parts.len() == 3);
            let parts = parts.ok_or_else(|| invalid("filters", "Invalid filter"))?;
            let word = |at: usize| parts[at].as_str().unwrap_or_default().to_owned();
            if !["=", "!=", "^", "in", ">", "<"].contains(&word(1).as_str()) {
                return Err(invalid("filters", "Invalid operation"));
            }
            filters.push((word(0), word(1), parts[2].clone()));
        }
        let options = schema::object(
            params.get(1),
            "options",
            &[
                ("extra", Kind::Object, false),
                ("order_by", Kind::List, false),
                ("select", Kind::List, false),
                ("count", Kind::Bool, false),
                ("get", Kind::Bool, false),
                ("offset", Kind::Int, false),
                ("limit", Kind::Int, false),
                ("force_sql_filters", Kind::Bool, false),
            ],
        )?;
        Ok(Self { filters, options })
    }

    /// The value a field must have, when the filters say so.
    pub fn wanted(&self, field: &str) -> Option<&str> {
        let found = self
            .filters
            .iter()
            .find(|(name, op, _)| name == field && op == "=");
        found.and_then(|(_, _, value)| value.as_str())
    }

    pub fn extra(&self, key: &str) -> &Value {
        &self.options["extra"][key]
    }

    pub fn answer(&self, all: Vec<Value>) -> Outcome {
        let mut found: Vec<Value> = all.into_iter().filter(|one| self.takes(one)).collect();
        for key in self.options["order_by"].as_array().into_iter().flatten() {
            let key = key.as_str().unwrap_or_default();
            let (back, key) = match key.strip_prefix('-') {
                Some(key) => (true, key),
                None => (false, key),
            };
            // Text as text: 10 comes before 9.
            found.sort_by(|a, b| match (a[key].as_i64(), b[key].as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a[key].as_str().cmp(&b[key].as_str()),
            });
            if back {
                found.reverse();
            }
        }
        if let Some(limit) = self.options["limit"].as_u64().filter(|limit| *limit > 0) {
            found.truncate(usize::try_from(limit).unwrap());
        }
        if let Some(keys) = self.options["select"]
            .as_array()
            .filter(|keys| !keys.is_empty())
        {
            for one in &mut found {
                if let Some(members) = one.as_object_mut() {
                    members.retain(|key, _| keys.iter().any(|wanted| wanted == key));
                }
            }
        }
        if self.options["count"] == true {
            return Ok(json!(found.len()));
        }
        if self.options["get"] == true {
            return found
                .into_iter()
                .next()
                .ok_or_else(|| call(22, "MatchNotFound()"));
        }
        Ok(json!(found))
    }

    fn takes(&self, one: &Value) -> bool {
        self.filters.iter().all(|(field, op, wanted)| {
            let have = &one[field.as_str()];
            match op.as_str() {
                "=" => have == wanted,
                "!=" => have != wanted,
                "in" => wanted.as_array().is_some_and(|all| all.contains(have)),
                "^" => match (have.as_str(), wanted.as_str()) {
                    (Some(have), Some(wanted)) => have.starts_with(wanted),
                    _ => false,
                },
                ">" => have.as_f64() > wanted.as_f64(),
                "<" => have.as_f64() < wanted.as_f64(),
                _ => false,
            }
        })
    }
}
