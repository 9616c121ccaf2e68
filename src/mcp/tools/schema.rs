//! Schemas and descriptions as every client takes them.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool};
use serde_json::Value;

/// Takes out what clients complain of, and joins the lines of sentences.
pub fn tidy(tool: &mut Tool) {
    if let Some(description) = &tool.description {
        tool.description = Some(joined(description).into());
    }
    tool.input_schema = Arc::new(tidied(&tool.input_schema));
    if let Some(schema) = &tool.output_schema {
        tool.output_schema = Some(Arc::new(tidied(schema)));
    }
}

fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn tidied(schema: &JsonObject) -> JsonObject {
    let mut schema = schema.clone();
    clean(&mut schema);
    schema
}

fn clean(schema: &mut JsonObject) {
    // Sizes of integers are no formats of JSON Schema.
    if schema.get("format").is_some_and(Value::is_string) {
        schema.remove("format");
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = joined(description);
    }
    for value in schema.values_mut() {
        match value {
            Value::Object(inner) => clean(inner),
            Value::Array(items) => items.iter_mut().for_each(|item| {
                if let Value::Object(inner) = item {
                    clean(inner);
                }
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_go_and_fields_of_that_name_stay() {
        let schema = json!({"properties": {
            "format": {"type": "string", "description": "a\nb"},
            "size": {"type": "integer", "format": "uint64"},
        }});
        let expected = json!({"properties": {
            "format": {"type": "string", "description": "a b"},
            "size": {"type": "integer"},
        }});
        let Value::Object(schema) = schema else {
            unreachable!()
        };
        assert_eq!(Value::Object(tidied(&schema)), expected);
    }
}
