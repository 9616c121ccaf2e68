//! Random identifiers.

use std::io;

use ring::rand::{SecureRandom, SystemRandom};

/// Returns `N` random bytes as lowercase hexadecimal digits.
pub fn hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("cannot get random numbers from the system"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
