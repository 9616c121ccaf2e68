//! The state of a gateway as files, and their encoding for `apply.sh`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::{hex, sha256};

/// File contents by name. No line may start with `==> `.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateFiles {
    files: BTreeMap<String, String>,
    /// nft commands that run after the state is applied. Not part of the state.
    commands: String,
}

impl StateFiles {
    pub fn insert(&mut self, name: impl Into<String>, content: String) {
        debug_assert!(!content.lines().any(|line| line.starts_with("==> ")));
        self.files.insert(name.into(), content);
    }

    /// Adds nft commands to run once, after the state is applied.
    pub fn run_after(&mut self, commands: String) {
        self.commands.push_str(&commands);
    }

    /// Returns a hash of the names and contents of all files.
    pub fn id(&self) -> String {
        hex(&sha256([self.files_as_text()])[..8])
    }

    /// Encodes the files for the script: each file follows a line `==> NAME`.
    pub fn to_text(&self) -> String {
        format!(
            "{}==> applied\n{}\n==> commands\n{}==> end\n",
            self.files_as_text(),
            self.id(),
            self.commands
        )
    }

    /// The input with which the script keeps the current state.
    pub fn unchanged(&self) -> String {
        format!("==> keep\n==> commands\n{}==> end\n", self.commands)
    }

    fn files_as_text(&self) -> String {
        let mut text = String::new();
        for (name, content) in &self.files {
            let _ = write!(text, "==> {name}\n{content}");
            if !content.is_empty() && !content.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    }
}
