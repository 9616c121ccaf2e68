//! Ignore rules of a sync: the user's patterns, and the patterns of
//! `.gitignore` files in the source. All patterns have git's syntax.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::model::{Error, Result};

pub const IGNORE_FILE: &str = ".gitignore";
/// Limits for all ignore files of a transfer together. A hostile pixel may send
/// such files, and each pattern uses hundreds of bytes of memory.
const MAX_BYTES: usize = 2 * 1024 * 1024;
const MAX_FILES: usize = 20_000;

#[derive(Debug, Clone, Default)]
pub struct Rules {
    excludes: Option<Gitignore>,
    ignore_files: bool,
    /// Patterns of ignore files by directory. Directories are relative to the top
    /// directory, whose path is empty.
    by_dir: HashMap<Vec<u8>, Gitignore>,
    /// Total size of the ignore files in bytes.
    bytes: usize,
}

impl Rules {
    /// Creates rules from the user's patterns `excludes`, which override
    /// `.gitignore` files. `ignore_files` also enables `.gitignore` files. Fails
    /// with [`Error::Invalid`] if a pattern is malformed.
    pub fn new(excludes: &[String], ignore_files: bool) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in excludes {
            let bad =
                |e| Error::Invalid(format!("invalid exclude pattern {pattern:?}: {e}").into());
            builder.add_line(None, pattern).map_err(bad)?;
        }
        let built = builder
            .build()
            .map_err(|e| Error::Invalid(format!("invalid exclude patterns: {e}").into()))?;
        Ok(Self {
            excludes: (!excludes.is_empty()).then_some(built),
            ignore_files,
            by_dir: HashMap::new(),
            bytes: 0,
        })
    }

    pub fn reads_ignore_files(&self) -> bool {
        self.ignore_files
    }

    /// Ignores further ignore files, because the destination's ignore files do not
    /// apply.
    pub fn stop_reading_ignore_files(&mut self) {
        self.ignore_files = false;
    }

    /// Returns the number of bytes to read from the next ignore file: one more than
    /// [`add_file`](Self::add_file) accepts.
    pub fn read_limit(&self) -> u64 {
        (MAX_BYTES - self.bytes) as u64 + 1
    }

    /// Adds the patterns of the ignore file in `dir`. Skips malformed lines like
    /// git. Fails with [`Error::TooLarge`] above the limits.
    pub fn add_file(&mut self, dir: &[u8], text: &[u8]) -> Result<()> {
        if text.len() > MAX_BYTES - self.bytes || self.by_dir.len() == MAX_FILES {
            return Err(Error::TooLarge {
                what: format!("the total of all {IGNORE_FILE} files ({MAX_FILES} at most)"),
                limit: MAX_BYTES as u64,
            });
        }
        self.bytes += text.len();
        let mut builder = GitignoreBuilder::new("");
        for line in String::from_utf8_lossy(text).lines() {
            if let Err(error) = builder.add_line(None, line) {
                tracing::debug!(%error, line, "malformed line in an ignore file");
            }
        }
        if let Ok(built) = builder.build() {
            self.by_dir.insert(dir.to_owned(), built);
        }
        Ok(())
    }

    /// Whether the rules ignore `path`. The parent of `path` must not be ignored.
    pub fn ignores(&self, path: &[u8], is_dir: bool) -> bool {
        let verdict = |rules: &Gitignore, path: &[u8]| {
            let path = Path::new(OsStr::from_bytes(path));
            match rules.matched(path, is_dir) {
                Match::None => None,
                Match::Ignore(_) => Some(true),
                Match::Whitelist(_) => Some(false),
            }
        };
        let by_user = self.excludes.as_ref().and_then(|all| verdict(all, path));
        let ends = (0..path.len()).rev().filter(|&end| path[end] == b'/');
        let dirs = ends.map(|end| (&path[..end], &path[end + 1..]));
        // The ignore file closest to the path takes precedence.
        let mut dirs = dirs.chain([(&b""[..], path)]);
        let by_file = || dirs.find_map(|(dir, name)| verdict(self.by_dir.get(dir)?, name));
        by_user.or_else(by_file).unwrap_or(false)
    }

    /// Whether the rules ignore `path` or any parent of `path`.
    pub fn ignores_path(&self, path: &[u8], is_dir: bool) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut parents = ends.map(|(end, _)| &path[..end]);
        parents.any(|parent| self.ignores(parent, true)) || self.ignores(path, is_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(excludes: &[&str], files: &[(&str, &str)]) -> Rules {
        let excludes: Vec<String> = excludes.iter().map(|&e| e.to_owned()).collect();
        let mut rules = Rules::new(&excludes, true).unwrap();
        for (dir, text) in files {
            rules.add_file(dir.as_bytes(), text.as_bytes()).unwrap();
        }
        rules
    }

    #[test]
    fn patterns_match_as_in_git() {
        let rules = rules(
            &["*.o", "/dist/"],
            &[
                ("", "node_modules\n*.log\n# no\n"),
                ("sub", "!keep.log\n/only\n"),
            ],
        );
        let ignored = |path: &str| rules.ignores_path(path.as_bytes(), path.ends_with("dir"));
        for path in ["a.o", "x/y/a.o", "node_modules/a/b", "x.log", "sub/only"] {
            assert!(ignored(path), "{path}");
        }
        for path in ["a.c", "sub/keep.log", "sub/x/only", "x/dist"] {
            assert!(!ignored(path), "{path}");
        }
        assert!(rules.ignores(b"dist", true));
        assert!(!rules.ignores(b"dist", false));
        assert!(!Rules::default().ignores(b"\xff", false));
    }

    #[test]
    fn user_patterns_override_gitignore() {
        let rules = rules(&["!a.log"], &[("", "*.log\n")]);
        assert!(!rules.ignores(b"a.log", false));
        assert!(rules.ignores(b"b.log", false));
    }

    #[test]
    fn ignore_files_beyond_the_limits_are_rejected() {
        let mut rules = rules(&[], &[("a", "*.o\n")]);
        assert_eq!(rules.read_limit(), MAX_BYTES as u64 - 4 + 1);
        let rest = vec![b'\n'; MAX_BYTES - 4];
        assert!(rules.clone().add_file(b"b", &rest).is_ok());
        let rejected = rules.add_file(b"b", &[rest, vec![b'\n']].concat());
        assert!(matches!(rejected, Err(Error::TooLarge { .. })));
        for number in 1..MAX_FILES {
            rules.add_file(number.to_string().as_bytes(), b"").unwrap();
        }
        assert!(rules.add_file(b"one more", b"").is_err());
    }
}
