//! A key of the settings, as declared by its row in `settings`.

use toml::Value;

use super::origin::{Result, Warning};
use super::spanned_toml::Node;
use super::value_kind::ValueKind;
use crate::secret::Secret;

#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted name, such as `network.egress`.
    pub name: &'static str,
    /// The environment variable that sets the key.
    pub variable: Option<&'static str>,
    pub kind: ValueKind,
    /// Whether `""` and 0 are accepted and mean unset.
    pub optional: bool,
    /// Whether `""` and 0 are accepted and mean the default.
    pub empty_is_default: bool,
}

impl Key {
    pub(super) const fn new(kind: ValueKind) -> Self {
        Self {
            name: "",
            variable: None,
            kind,
            optional: false,
            empty_is_default: false,
        }
    }

    pub(super) fn check(&self, node: &Node) -> Result<()> {
        let value = &node.value;
        if value.as_str().is_some_and(|text| text.contains('\0')) {
            // Values become C strings, which end at a NUL.
            return Err(node.invalid("contains a NUL character"));
        }
        let empty = match self.kind {
            ValueKind::Integer(..) => Value::Integer(0),
            _ => Value::String(String::new()),
        };
        let is_empty = *value == empty && (self.optional || self.empty_is_default);
        if is_empty || self.kind.accepts(value) {
            return Ok(());
        }
        let mut expected = self.kind.description();
        if self.optional {
            expected += &format!(" ({empty} for unset)");
        }
        let found = match (self.kind, value) {
            (ValueKind::Secret, Value::String(_)) => Secret::MASK.into(),
            (ValueKind::Secret | ValueKind::Env | ValueKind::Bases, _) => {
                return Err(node.wrong_type(&expected));
            }
            _ => value.to_string(),
        };
        Err(node.invalid(format!("is {found}, but must be {expected}")))
    }
}

/// Whether this value of an optional key means unset.
pub(super) fn is_empty(value: &Value) -> bool {
    value.as_str() == Some("") || value.as_integer() == Some(0)
}

/// Warns about a key that is not in `known`, and suggests the most similar key.
pub(super) fn unknown_key(node: &Node, name: &str, known: &[&str]) -> Warning {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let similarity = |key: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, key);
        // Compare last parts too, to find a key that is in the wrong table.
        let end = strsim::normalized_damerau_levenshtein(&last(name), &last(key));
        whole.max(0.9 * end)
    };
    let candidates = known.iter().map(|key| (similarity(key), key));
    let nearest = candidates.max_by(|(a, _), (b, _)| a.total_cmp(b));
    node.warning(match nearest {
        Some((0.7.., key)) => format!("is not a known key and is ignored; did you mean {key}?"),
        _ => "is not a known key and is ignored".to_owned(),
    })
}
