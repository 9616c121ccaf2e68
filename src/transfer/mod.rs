//! Transfers files and directories between this machine and a pixel. Depends
//! only on [`Guest`](crate::model::Guest), not on a backend, settings or a
//! terminal.
//!
//! # How a push transfers files
//!
//! | method | module | used for |
//! | --- | --- | --- |
//! | raw SFTP writes | `sftp_push` | a single file of at least 16 MiB without holes, into a running pixel |
//! | tar archive | `push`, `pack` | all other files, into a running pixel with `tar` |
//! | one file at a time | `per_file` | a stopped pixel, or a pixel without `tar` |
//!
//! [`push()`] tries the methods in this order. `push -` ([`write()`]) sends
//! stdin to a script. [`pull()`] unpacks a tar archive from the pixel, or
//! otherwise copies one file at a time. A sync always uses tar archives.
//!
//! In both directions, a file gets its final name only after completion. Data
//! from a pixel is not trusted: see `unpack` and `confined_write`.

mod blocking_pipe;
mod confined_write;
mod guest_listing;
mod guest_script;
#[cfg(test)]
mod guest_script_test;
mod ignore_rules;
mod mtime;
mod pack;
mod per_file;
mod progress;
mod pull;
mod push;
mod sftp_push;
mod sparse;
mod sync;
mod temp_file;
mod unpack;
#[cfg(test)]
mod unpack_test;
mod walk;

#[cfg(test)]
mod fuzz;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use crate::model::{Error, Ids, Result};

pub use ignore_rules::Rules;
pub use progress::TransferProgress;
pub use pull::{Pull, pull, read};
pub use push::{Push, push, write};
pub use sync::{Changes, Sync, sync_in, sync_out};

/// The result of a transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of transferred files and links.
    pub files: u64,
    pub bytes: u64,
    /// Number of skipped devices, sockets and pipes.
    pub skipped: u64,
    /// Warnings from the pixel's tar.
    pub notes: String,
}

impl Report {
    /// Adds the result of another transfer of the same command.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.skipped += other.skipped;
        if !self.notes.is_empty() && !other.notes.is_empty() {
            self.notes.push('\n');
        }
        self.notes.push_str(&other.notes);
    }
}

/// An absolute path inside a pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath {
    /// The path without a trailing slash, except for `/` itself.
    pub path: String,
    /// Whether the user specified a directory: `a/`, `a/.`, or an empty path.
    pub directory: bool,
    /// Whether the user specified the contents of a directory: `a/.`.
    pub contents: bool,
}

impl GuestPath {
    /// Parses the user's `text`. Relative paths and `~` are below `home`. `..`
    /// removes the last part of the path, like `cd` in a shell. Fails with
    /// [`Error::Invalid`] if the path contains a zero byte.
    pub fn parse(text: &str, home: &str) -> Result<Self> {
        if text.contains('\0') {
            return Err(Error::Invalid("a path contains a zero byte".into()));
        }
        let absolute = match text {
            "" | "~" => home.to_owned() + "/",
            _ if text.starts_with('/') => text.to_owned(),
            _ => format!("{home}/{}", text.strip_prefix("~/").unwrap_or(text)),
        };
        let contents = absolute.ends_with("/.");
        let directory = contents || absolute.ends_with('/') || absolute.ends_with("/..");
        let mut parts: Vec<&str> = Vec::new();
        for part in absolute.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        Ok(Self {
            path: format!("/{}", parts.join("/")),
            directory: directory || parts.is_empty(),
            contents,
        })
    }

    /// Returns the last part of the path, which is empty for `/`.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or("")
    }
}

/// Owners of files at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The same owner for all files. On this machine, always the current user.
    One(Ids),
    /// The numeric owners of the source files.
    Kept,
}

impl Ownership {
    /// Returns the owner in the pixel for a local file.
    fn owner_in_guest(self, meta: &Metadata) -> Ids {
        match self {
            Self::One(owner) => owner,
            Self::Kept => Ids {
                uid: meta.uid(),
                gid: meta.gid(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_resolves_relative_paths_below_home() {
        let parse = |text: &str| GuestPath::parse(text, "/home/pixel").unwrap();
        for (text, path, directory, contents) in [
            ("", "/home/pixel", true, false),
            ("~", "/home/pixel", true, false),
            ("work", "/home/pixel/work", false, false),
            ("~/work/", "/home/pixel/work", true, false),
            ("work/.", "/home/pixel/work", true, true),
            ("/", "/", true, false),
            ("/a//b/../c", "/a/c", false, false),
            ("../../..", "/", true, false),
        ] {
            let expected = GuestPath {
                path: path.into(),
                directory,
                contents,
            };
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse("/a/b").name(), "b");
        assert!(GuestPath::parse("a\0b", "/").is_err());
    }
}
