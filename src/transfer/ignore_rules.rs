//! What is left out of a transfer: patterns as in `.gitignore` files, given
//! by the user or read from such files on the way.

use std::collections::HashMap;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::walk::os;
use crate::model::{Error, Result};

pub const IGNORE_FILE: &str = ".gitignore";
/// Of all ignore files of a transfer together: a pattern takes hundreds of
/// bytes, and whoever wrote the files may mean no good.
const TEXT: usize = 2 * 1024 * 1024;
const FILES: usize = 20_000;

#[derive(Debug, Clone, Default)]
pub struct Rules {
    excludes: Option<Gitignore>,
    ignore_files: bool,
    /// By folder, relative; empty for the top.
    by_folder: HashMap<Vec<u8>, Gitignore>,
    /// Bytes of text in them.
    text: usize,
}

impl Rules {
    /// `excludes`: patterns of the user's, which win over `.gitignore` files;
    /// those are read when `ignore_files` is set.
    pub fn new(excludes: &[String], ignore_files: bool) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in excludes {
            let bad = |e| Error::Invalid(format!("exclude pattern {pattern:?}: {e}").into());
            builder.add_line(None, pattern).map_err(bad)?;
        }
        let built = builder
            .build()
            .map_err(|e| Error::Invalid(format!("exclude patterns: {e}").into()))?;
        Ok(Self {
            excludes: (!excludes.is_empty()).then_some(built),
            ignore_files,
            by_folder: HashMap::new(),
            text: 0,
        })
    }

    pub fn reads_ignore_files(&self) -> bool {
        self.ignore_files
    }

    /// Ignore files found from now on say nothing: they are the destination's.
    pub fn settle(&mut self) {
        self.ignore_files = false;
    }

    /// How much of a further ignore file is to be read: one byte more than is
    /// taken.
    pub fn room(&self) -> u64 {
        (TEXT - self.text) as u64 + 1
    }

    /// The content of the ignore file in `folder`. Lines that are no pattern
    /// are passed over, as git does.
    pub fn add(&mut self, folder: &[u8], text: &[u8]) -> Result<()> {
        if text.len() > TEXT - self.text || self.by_folder.len() == FILES {
            let all = format!("what the {FILES} first {IGNORE_FILE} files say");
            return Err(Error::TooLarge {
                what: all,
                limit: TEXT as u64,
            });
        }
        self.text += text.len();
        let mut builder = GitignoreBuilder::new("");
        for line in String::from_utf8_lossy(text).lines() {
            if let Err(error) = builder.add_line(None, line) {
                tracing::debug!(%error, line, "ignore file");
            }
        }
        if let Ok(built) = builder.build() {
            self.by_folder.insert(folder.to_owned(), built);
        }
        Ok(())
    }

    /// Whether `path`, whose folder is not left out, is.
    pub fn leaves_out(&self, path: &[u8], is_folder: bool) -> bool {
        let judge = |rules: &Gitignore, path: &[u8]| {
            let name = os(path);
            match rules.matched(Path::new(&name), is_folder) {
                Match::None => None,
                Match::Ignore(_) => Some(true),
                Match::Whitelist(_) => Some(false),
            }
        };
        if let Some(verdict) = self.excludes.as_ref().and_then(|all| judge(all, path)) {
            return verdict;
        }
        if self.by_folder.is_empty() {
            return false;
        }
        // The nearest file that says anything decides.
        let mut folder = path;
        while let Some(end) = folder.iter().rposition(|&byte| byte == b'/') {
            folder = &path[..end];
            let verdict = self.by_folder.get(folder);
            if let Some(verdict) = verdict.and_then(|rules| judge(rules, &path[end + 1..])) {
                return verdict;
            }
        }
        let top = self.by_folder.get(&b""[..]);
        top.and_then(|rules| judge(rules, path)).unwrap_or(false)
    }

    /// The same when nothing is known of its folders.
    pub fn leaves_out_anywhere(&self, path: &[u8], is_folder: bool) -> bool {
        let folders = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut folders = folders.map(|(end, _)| &path[..end]);
        folders.any(|folder| self.leaves_out(folder, true)) || self.leaves_out(path, is_folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(excludes: &[&str], files: &[(&str, &str)]) -> Rules {
        let excludes: Vec<String> = excludes.iter().map(|&e| e.to_owned()).collect();
        let mut rules = Rules::new(&excludes, true).unwrap();
        for (folder, text) in files {
            rules.add(folder.as_bytes(), text.as_bytes()).unwrap();
        }
        rules
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let rules = rules(
            &["*.o", "/dist/"],
            &[
                ("", "node_modules\n*.log\n# no\n"),
                ("sub", "!keep.log\n/only\n"),
            ],
        );
        let out = |path: &str| rules.leaves_out_anywhere(path.as_bytes(), path.ends_with("dir"));
        for path in ["a.o", "x/y/a.o", "node_modules/a/b", "x.log", "sub/only"] {
            assert!(out(path), "{path}");
        }
        for path in ["a.c", "sub/keep.log", "sub/x/only", "x/dist"] {
            assert!(!out(path), "{path}");
        }
        assert!(rules.leaves_out(b"dist", true));
        assert!(!rules.leaves_out(b"dist", false));
        assert!(!Rules::default().leaves_out(b"\xff", false));
    }

    #[test]
    fn the_users_word_stands_over_the_files() {
        let rules = rules(&["!a.log"], &[("", "*.log\n")]);
        assert!(!rules.leaves_out(b"a.log", false));
        assert!(rules.leaves_out(b"b.log", false));
    }

    #[test]
    fn ignore_files_have_a_bound_together() {
        let mut rules = rules(&[], &[("a", "*.o\n")]);
        assert_eq!(rules.room(), TEXT as u64 - 4 + 1);
        let rest = vec![b'\n'; TEXT - 4];
        assert!(rules.clone().add(b"b", &rest).is_ok());
        let refused = rules.add(b"b", &[rest, vec![b'\n']].concat());
        assert!(matches!(refused, Err(Error::TooLarge { .. })));
        for number in 1..FILES {
            rules.add(number.to_string().as_bytes(), b"").unwrap();
        }
        assert!(rules.add(b"one more", b"").is_err());
    }
}
