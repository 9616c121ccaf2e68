//! The files that are a gateway's state, as one text for its script.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ring::digest;

use crate::egress::render::hex;

/// Files by name; every line ends with a newline and none begins with `==> `.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateFiles {
    files: BTreeMap<String, String>,
}

impl StateFiles {
    pub fn file(&mut self, name: impl Into<String>, content: String) {
        debug_assert!(!content.lines().any(|line| line.starts_with("==> ")));
        self.files.insert(name.into(), content);
    }

    /// Differs whenever any file does.
    pub fn id(&self) -> String {
        let text = self.files_as_text();
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        hex(&hash.as_ref()[..8])
    }

    /// What the script reads.
    pub fn to_text(&self) -> String {
        format!(
            "{}==> applied\n{}\n==> end\n",
            self.files_as_text(),
            self.id()
        )
    }

    /// In place of a state: leave what is in force.
    pub fn unchanged() -> String {
        "==> keep\n==> end\n".into()
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

    #[cfg(test)]
    pub fn get(&self, name: &str) -> &str {
        &self.files[name]
    }

    #[cfg(test)]
    pub fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }
}
