//! The state of a gateway as files, and their encoding for `apply.sh`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::{hex, sha256};

/// File contents by name. No line may start with `==> `.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateFiles(BTreeMap<String, String>);

impl StateFiles {
    pub fn insert(&mut self, name: impl Into<String>, content: String) {
        debug_assert!(!content.lines().any(|line| line.starts_with("==> ")));
        self.0.insert(name.into(), content);
    }

    /// Returns a hash of the names and contents of all files.
    pub fn id(&self) -> String {
        hex(&sha256([self.files_as_text()])[..8])
    }

    /// Encodes the files for the script: each file follows a line `==> NAME`.
    pub fn to_text(&self) -> String {
        format!(
            "{}==> applied\n{}\n==> end\n",
            self.files_as_text(),
            self.id()
        )
    }

    /// The input with which the script keeps the current state.
    pub fn unchanged() -> String {
        "==> keep\n==> end\n".into()
    }

    fn files_as_text(&self) -> String {
        let mut text = String::new();
        for (name, content) in &self.0 {
            let _ = write!(text, "==> {name}\n{content}");
            if !content.is_empty() && !content.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    }
}
