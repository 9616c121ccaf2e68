//! TOML text as a tree of values that know their line.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::error::ConfigError;

/// A value of a document. A table has its values twice: as children with
/// lines of their own, and inside `value`.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Of the key, counted from 1; `None` outside files.
    pub line: Option<usize>,
    pub value: Value,
    pub children: BTreeMap<String, Node>,
}

impl Node {
    /// A value that stands in no document.
    pub fn leaf(value: Value) -> Self {
        Self {
            line: None,
            value,
            children: BTreeMap::new(),
        }
    }
}

/// Reads a document; `file` is for messages.
pub(super) fn parse(file: &Path, text: &str) -> Result<Node, ConfigError> {
    let syntax = |error: &toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, at);
        ConfigError::Syntax {
            file: file.to_owned(),
            line,
            column,
            message: error.message().replace('\n', ", "),
        }
    };
    let spans = DeTable::parse(text).map_err(|e| syntax(&e))?;
    let values: toml::Table = toml::from_str(text).map_err(|e| syntax(&e))?;
    Ok(Node {
        line: None,
        children: children(text, &values, spans.get_ref()),
        value: Value::Table(values),
    })
}

fn children(text: &str, values: &toml::Table, spans: &DeTable<'_>) -> BTreeMap<String, Node> {
    let mut found = BTreeMap::new();
    for (key, span) in spans {
        let name: &str = key.get_ref();
        let Some(value) = values.get(name) else {
            continue;
        };
        let children = match (value, Spanned::get_ref(span)) {
            (Value::Table(values), DeValue::Table(spans)) => children(text, values, spans),
            _ => BTreeMap::new(),
        };
        let node = Node {
            line: Some(position(text, key.span().start).0),
            value: value.clone(),
            children,
        };
        found.insert(name.to_owned(), node);
    }
    found
}

/// Line and column (in characters) of a byte offset, counted from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_knows_its_line() {
        let root = parse(
            Path::new("f"),
            "a = 1\n\n[b]\n# c\nd = [\n 1,\n]\ne.f = 'x'\n[g]\n",
        )
        .unwrap();
        let line = |node: &Node, key: &str| node.children[key].line;
        assert_eq!(line(&root, "a"), Some(1));
        assert_eq!(line(&root, "b"), Some(3));
        assert_eq!(line(&root.children["b"], "d"), Some(5));
        assert_eq!(line(&root.children["b"].children["e"], "f"), Some(8));
        assert_eq!(line(&root, "g"), Some(9));
    }

    #[test]
    fn syntax_errors_have_line_and_column_and_no_text_of_the_file() {
        for (text, at) in [
            ("a = 1\nb = s3cret\n", "2:5"),
            ("a = \"s3cret\n", "1:12"),
            ("a = 1\na = 's3cret'\n", "2:1"),
            ("[x\n", "1:3"),
            ("a = 99999999999999999999\n", "1:5"),
            ("ä = 1", "1:1"),
        ] {
            let error = parse(Path::new("/x/c.toml"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("/x/c.toml:{at}: ")), "{error}");
            assert!(
                !error.contains("s3cret") && !error.contains('\n'),
                "{error}"
            );
        }
    }
}
