//! What is in a local folder, without following any link in it.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::ignore_rules::{IGNORE_FILE, Rules};
use super::progress::TransferProgress;
use crate::model::{Error, Result};

/// One entry to transfer.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its path on the other side, relative, in bytes; empty for the top.
    pub name: Vec<u8>,
    pub source: PathBuf,
    pub meta: Metadata,
}

impl Item {
    pub fn is_special(&self) -> bool {
        let kind = self.meta.file_type();
        kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    }
}

/// `top` and everything below it that the rules do not leave out, parents
/// before what is in them, in the order of names. A link at the top itself is
/// followed: the user named it.
pub fn walk(top: &Path, name: &[u8], rules: &Rules, meter: &TransferProgress) -> Result<Vec<Item>> {
    let failed = |path: &Path, e| Error::io(format!("reading {}", path.display()), e);
    let meta = fs::metadata(top).map_err(|e| missing(top, e))?;
    let mut rules = rules.clone();
    // The last of them comes next: what is in a folder follows it.
    let mut waiting = vec![Item {
        name: name.to_owned(),
        source: top.to_owned(),
        meta,
    }];
    let mut found = Vec::new();
    while let Some(item) = waiting.pop() {
        meter.check_cancelled().map_err(|_| Error::Cancelled)?;
        if item.meta.is_file() {
            meter.expect(item.meta.len());
        }
        if item.meta.is_dir() {
            let inside = below(&item.name, name);
            let names = names(&item.source).map_err(|e| failed(&item.source, e))?;
            if rules.reads_ignore_files() && names.iter().any(|name| name == IGNORE_FILE) {
                learn(&mut rules, &inside, &item.source.join(IGNORE_FILE))?;
            }
            for entry in names.iter().rev() {
                let source = item.source.join(entry);
                let meta = match fs::symlink_metadata(&source) {
                    Ok(meta) => meta,
                    // Gone since the folder was read.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(failed(&source, e)),
                };
                let name = entry.as_bytes();
                if !rules.leaves_out(&joined(&inside, name), meta.is_dir()) {
                    let name = joined(&item.name, name);
                    waiting.push(Item { name, source, meta });
                }
            }
        }
        found.push(item);
    }
    Ok(found)
}

/// Takes up the ignore file of `folder`. It may have come from a pixel: a link
/// is not followed, as git does, and its length is looked at.
pub fn learn(rules: &mut Rules, folder: &[u8], file: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("reading {}", file.display()), e);
    if !fs::symlink_metadata(file).map_err(failed)?.is_file() {
        return Ok(());
    }
    let mut text = Vec::new();
    let mut from = fs::File::open(file).map_err(failed)?.take(rules.room());
    from.read_to_end(&mut text).map_err(failed)?;
    rules.add(folder, &text)
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn missing(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        Error::NotFound(crate::model::Subject::Path(path.display().to_string()))
    } else {
        Error::io(format!("reading {}", path.display()), error)
    }
}

/// `path` without the name of the top.
fn below(path: &[u8], top: &[u8]) -> Vec<u8> {
    let rest = path.strip_prefix(top).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest).to_owned()
}

pub fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        return name.to_owned();
    }
    [folder, b"/", name].concat()
}

pub fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("b/c")).unwrap();
        fs::write(top.join("b/c/file"), "12345").unwrap();
        fs::write(top.join("a"), "1").unwrap();
        std::os::unix::fs::symlink("/", top.join("root")).unwrap();
        let meter = TransferProgress::default();
        let found = walk(&top, b"x", &Rules::default(), &meter).unwrap();
        let names: Vec<String> = found
            .iter()
            .map(|item| String::from_utf8(item.name.clone()).unwrap())
            .collect();
        assert_eq!(names, ["x", "x/a", "x/b", "x/b/c", "x/b/c/file", "x/root"]);
        assert_eq!(meter.total(), 6);
        // To a file without an end, for who would follow it.
        std::os::unix::fs::symlink("/dev/zero", top.join(IGNORE_FILE)).unwrap();
        let rules = Rules::new(&[], true).unwrap();
        assert_eq!(walk(&top, b"x", &rules, &meter).unwrap().len(), 7);
        let gone = walk(&dir.path().join("no"), b"", &Rules::default(), &meter);
        assert!(gone.unwrap_err().is_not_found());
    }
}
