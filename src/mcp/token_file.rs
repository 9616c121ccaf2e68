//! The token clients must show where others can reach the server: that of the
//! settings, or one that is made once and kept in a file.

use std::io;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use super::state::replace;
use crate::secret::Secret;

/// The token in the file, which is made where it is missing.
pub fn read_or_create(path: &Path) -> io::Result<Secret> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("no random numbers on this machine"))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    replace(path, format!("{token}\n").as_bytes())?;
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/mcp-token");
        let first = read_or_create(&path).unwrap();
        assert_eq!(first.expose().len(), 64);
        assert_eq!(read_or_create(&path).unwrap(), first);
    }
}
