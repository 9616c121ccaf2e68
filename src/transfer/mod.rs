//! Files and folders between this machine and the inside of a pixel. Written
//! once over `Guest`; knows no backend, no settings and no terminal.
//!
//! A running pixel with `tar` in it exchanges one archive stream per command,
//! or takes one large file; a stopped one, or one without `tar`, is served by single file calls.
//! In both directions a file gets its final name only when it is whole, and
//! what comes from a pixel is not trusted: see [`unpack`].

mod channel_io;
mod confined_write;
mod guest_listing;
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
mod unpack;
#[cfg(test)]
mod unpack_test;
mod walk;

#[cfg(test)]
#[path = "../../tests/fuzz/transfer.rs"]
mod fuzz;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::model::{Error, Ids, Subject};

pub use ignore_rules::Rules;
pub use progress::TransferProgress;
pub use pull::{Pull, pull, read};
pub use push::{Push, push, write};
pub use sync::{Changes, Sync, sync_in, sync_out};

/// What a transfer did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub files: u64,
    pub bytes: u64,
    /// Devices, sockets and the like, which are not transferred.
    pub skipped: u64,
    /// What the other side had to say, although it went well.
    pub notes: String,
}

impl Report {
    /// Another transfer of the same command.
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

/// A path inside a pixel, made absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath {
    /// Without a slash at its end, but for `/` itself.
    pub path: String,
    /// It was written as a directory: `a/`, `a/.`, or nothing at all.
    pub directory: bool,
    /// What is in it is meant, not the directory: `a/.`.
    pub contents: bool,
}

impl GuestPath {
    /// `text` as the user typed it; relative to `home`.
    pub fn parse(text: &str, home: &str) -> Result<Self, Error> {
        if text.contains('\0') {
            return Err(Error::Invalid("a path with a NUL in it".into()));
        }
        let below = match text {
            "" | "~" => home.to_owned() + "/",
            _ if text.starts_with('/') => text.to_owned(),
            _ => match text.strip_prefix("~/") {
                Some(rest) => format!("{home}/{rest}"),
                None => format!("{home}/{text}"),
            },
        };
        let contents = below.ends_with("/.");
        let directory = contents || below.ends_with('/') || below.ends_with("/..");
        let mut parts: Vec<&str> = Vec::new();
        for part in below.split('/') {
            match part {
                "" | "." => {}
                // As `cd` does it: by the name, not by where a link leads.
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

    /// The last part of the path; empty for `/`.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or("")
    }
}

/// Where in this machine's files something goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTarget {
    pub path: PathBuf,
    /// It was written as a directory.
    pub directory: bool,
}

/// Whose the files are when they have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// All of one owner; on this machine that is always us.
    One(Ids),
    /// Those of the numbers they have on the other side.
    Kept,
}

impl Ownership {
    /// Whose a file of this machine is over there.
    fn of(self, meta: &Metadata) -> Ids {
        match self {
            Self::One(owner) => owner,
            Self::Kept => Ids {
                uid: meta.uid(),
                gid: meta.gid(),
            },
        }
    }
}

/// How a guest script that moves files ended, as an error. `doing` is said of
/// a failure that has no better name.
fn explain(status: i32, stderr: &[u8], path: &str, doing: &str) -> Error {
    let stderr = String::from_utf8_lossy(stderr).trim().to_owned();
    match status {
        NO_SUCH_PATH => Error::NotFound(Subject::Other(format!("{path:?} in the pixel"))),
        NO_DIRECTORY => Error::Invalid(format!("{path} is no directory in the pixel").into()),
        NO_TAR => Error::Unsupported {
            operation: doing.to_owned(),
            reason: "the pixel has no tar".into(),
        },
        status => Error::Guest {
            command: doing.to_owned(),
            status,
            stderr,
        },
    }
}

const NO_SUCH_PATH: i32 = 96;
const NO_TAR: i32 = 97;
const NO_DIRECTORY: i32 = 98;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_users_home_unless_absolute() {
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
