//! Simplifies generated schemas and descriptions for all clients.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool};
use serde_json::Value;

/// Removes non-standard formats, which some clients reject, and line breaks in
/// descriptions. Adds missing hints: tools are closed-world, and tools that are
/// not read-only are destructive and not idempotent.
pub fn simplify(tool: &mut Tool) {
    if let Some(hints) = &mut tool.annotations {
        hints.open_world_hint.get_or_insert(false);
        if !*hints.read_only_hint.get_or_insert(false) {
            hints.destructive_hint.get_or_insert(true);
            hints.idempotent_hint.get_or_insert(false);
        }
    }
    if let Some(description) = &tool.description {
        tool.description = Some(on_one_line(description).into());
    }
    simplify_object(Arc::make_mut(&mut tool.input_schema));
    if let Some(schema) = &mut tool.output_schema {
        simplify_object(Arc::make_mut(schema));
    }
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn simplify_object(schema: &mut JsonObject) {
    // JSON Schema does not define formats such as uint64 of schemars.
    if schema.get("format").is_some_and(Value::is_string) {
        schema.remove("format");
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = on_one_line(description);
    }
    schema.values_mut().for_each(simplify_value);
}

fn simplify_value(value: &mut Value) {
    match value {
        Value::Object(object) => simplify_object(object),
        Value::Array(items) => items.iter_mut().for_each(simplify_value),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_are_removed_but_fields_named_format_kept() {
        let mut schema = json!({"properties": {
            "format": {"type": "string", "description": "a\nb"},
            "size": {"type": "integer", "format": "uint64"},
        }});
        let expected = json!({"properties": {
            "format": {"type": "string", "description": "a b"},
            "size": {"type": "integer"},
        }});
        simplify_value(&mut schema);
        assert_eq!(schema, expected);
    }
}
