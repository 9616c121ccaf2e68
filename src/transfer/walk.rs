//! Lists a local directory tree without following links inside the tree.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ignore_rules::{IGNORE_FILE, Rules};
use super::progress::TransferProgress;
use crate::model::{Error, FileKind, Result, Subject};

/// An entry to transfer.
#[derive(Debug, Clone)]
pub struct Item {
    /// The path in the archive, in bytes.
    pub name: Vec<u8>,
    /// The local path.
    pub source: PathBuf,
    pub meta: Metadata,
}

impl Item {
    pub fn kind(&self) -> FileKind {
        if self.meta.is_file() {
            FileKind::File
        } else if self.meta.is_dir() {
            FileKind::Directory
        } else if self.meta.is_symlink() {
            FileKind::Symlink
        } else {
            FileKind::Other
        }
    }
}

/// Lists `top` and all entries below `top` that the rules do not ignore, sorted
/// by name, with every directory before its entries. Names begin with `name`.
/// Follows `top` if it is a link, because the user specified the link. Adds the
/// ignore files to the rules.
///
/// Adds the sizes of all files to the total of `progress`. Fails with
/// [`Error::Cancelled`] when `progress` is canceled.
pub fn walk(
    top: &Path,
    name: &[u8],
    rules: &mut Rules,
    progress: &TransferProgress,
) -> Result<Vec<Item>> {
    let meta = fs::metadata(top).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(Subject::Path(top.display().to_string())),
        _ => cannot_read(top, error),
    })?;
    // A stack lists the entries of a directory right after the directory.
    let mut pending = vec![Item {
        name: name.to_owned(),
        source: top.to_owned(),
        meta,
    }];
    let mut items = Vec::new();
    while let Some(item) = pending.pop() {
        progress.check_cancelled()?;
        if item.meta.is_file() {
            progress.add_total(item.meta.len());
        }
        if item.meta.is_dir() {
            let dir = below(&item.name, name);
            let entries = sorted_names(&item.source).map_err(|e| cannot_read(&item.source, e))?;
            if rules.reads_ignore_files() && entries.iter().any(|entry| entry == IGNORE_FILE) {
                read_ignore_file(rules, &dir, &item.source.join(IGNORE_FILE))?;
            }
            for entry in entries.iter().rev() {
                let source = item.source.join(entry);
                let meta = match fs::symlink_metadata(&source) {
                    Ok(meta) => meta,
                    // The entry was deleted after the directory was read.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(cannot_read(&source, e)),
                };
                let entry = entry.as_bytes();
                if !rules.ignores(&join(&dir, entry), meta.is_dir()) {
                    let name = join(&item.name, entry);
                    pending.push(Item { name, source, meta });
                }
            }
        }
        items.push(item);
    }
    Ok(items)
}

/// Adds the ignore file of `dir` to the rules. The file may be from a pixel, so
/// its size is limited. Skips links like git.
fn read_ignore_file(rules: &mut Rules, dir: &[u8], file: &Path) -> Result<()> {
    let failed = |e| cannot_read(file, e);
    if !fs::symlink_metadata(file).map_err(failed)?.is_file() {
        return Ok(());
    }
    let mut text = Vec::new();
    let mut reader = fs::File::open(file)
        .map_err(failed)?
        .take(rules.read_limit());
    reader.read_to_end(&mut text).map_err(failed)?;
    rules.add_file(dir, &text)
}

fn sorted_names(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

pub fn cannot_read(path: &Path, error: io::Error) -> Error {
    Error::io(format!("cannot read {}", path.display()), error)
}

/// Returns `path` relative to `top`, which is empty for `top` itself.
pub fn below(path: &[u8], top: &[u8]) -> Vec<u8> {
    let rest = path.strip_prefix(top).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest).to_owned()
}

pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_owned();
    }
    [dir, b"/", name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_lists_parents_first_and_follows_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("b/c")).unwrap();
        fs::write(top.join("b/c/file"), "12345").unwrap();
        fs::write(top.join("a"), "1").unwrap();
        std::os::unix::fs::symlink("/", top.join("root")).unwrap();
        let progress = TransferProgress::default();
        let items = walk(&top, b"x", &mut Rules::default(), &progress).unwrap();
        let names: Vec<String> = items
            .iter()
            .map(|item| String::from_utf8(item.name.clone()).unwrap())
            .collect();
        assert_eq!(names, ["x", "x/a", "x/b", "x/b/c", "x/b/c/file", "x/root"]);
        assert_eq!(progress.total(), 6);
        // A link to an infinite file must not be read.
        std::os::unix::fs::symlink("/dev/zero", top.join(IGNORE_FILE)).unwrap();
        let mut rules = Rules::new(&[], true).unwrap();
        assert_eq!(walk(&top, b"x", &mut rules, &progress).unwrap().len(), 7);
        let missing = walk(
            &dir.path().join("no"),
            b"",
            &mut Rules::default(),
            &progress,
        );
        assert!(missing.unwrap_err().is_not_found());
    }
}
