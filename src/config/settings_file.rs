//! The settings file, and the permissions of files with secrets.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::origin::{ConfigError, Origin, Result, Warning};
use super::spanned_toml::location;
use crate::model::shell_quote;

const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads the file. Returns `None` if it is missing and not required.
pub(super) fn read(path: &Path, required: bool) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).map(|file| file.take(MAX_BYTES + 1));
    match opened.and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(size) if size as u64 <= MAX_BYTES => {}
        // A dangling symlink is an error.
        Err(error) if error.kind() == ErrorKind::NotFound && !required && !path.is_symlink() => {
            return Ok(None);
        }
        result => {
            let source = result.err().unwrap_or(ErrorKind::FileTooLarge.into());
            return Err(ConfigError::Unreadable {
                file: path.to_owned(),
                source,
            });
        }
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let location = location(&Origin::File(path.to_owned()), &text, valid);
        let problem = "the file is not valid UTF-8".into();
        ConfigError::Invalid { location, problem }
    });
    text.map(Some)
}

/// Warns if the group or others can read a file that contains `secret`. Returns
/// no warning if the file's mode cannot be read: reading the file fails later.
pub(super) fn warn_if_exposed(file: &Path, secret: &str) -> Option<Warning> {
    let metadata = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o044 == 0 {
        return None;
    }
    let path = file.display().to_string();
    let command = format!("chmod {:o} {}", mode & 0o700, shell_quote(&path));
    Some(Warning(format!(
        "{path} contains {secret} and other users can read it (mode {mode:04o}); run: {command}"
    )))
}
