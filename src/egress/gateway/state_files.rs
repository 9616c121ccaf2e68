//! The state of a gateway as files, and their encoding for `apply.sh`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::{hex, sha256};

/// The line after the last file. The script changes nothing before it has read it.
pub const END: &str = "==> end\n";

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

    /// Encodes the files for the script: each file follows a line `==> NAME`, and
    /// [`END`] follows the last file. One of the files contains the ID of the state, a
    /// hash of all names and contents. If that is `applied`, returns the input with
    /// which the script keeps the current state.
    pub fn to_text(&self, applied: &str) -> String {
        let mut text = self.files_as_text();
        let id = hex(&sha256([&text])[..8]);
        if id == applied {
            text = "==> keep\n".to_owned();
        } else {
            let _ = writeln!(text, "==> applied\n{id}");
        }
        text + "==> commands\n" + &self.commands + END
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
