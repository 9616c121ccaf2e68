//! Generates and stores a bearer token for servers that other machines can
//! reach and whose settings contain no token.

use std::io;
use std::path::Path;

use super::replace_file::replace_file;
use crate::model::random_hex;
use crate::secret::Secret;

/// Reads the token from the file. Generates one if the file is missing or
/// empty.
pub fn read_or_create(path: &Path) -> io::Result<Secret> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let token = random_hex(32)?;
    replace_file(path, format!("{token}\n").as_bytes())?;
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_generated_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/mcp-token");
        let first = read_or_create(&path).unwrap();
        assert_eq!(first.expose().len(), 64);
        assert_eq!(read_or_create(&path).unwrap(), first);
    }
}
