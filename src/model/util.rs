//! Small helper functions that several parts share.

use std::fmt::Write as _;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

/// Locks a mutex, even after another thread panicked while holding the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the SHA-256 of the concatenated parts.
pub fn sha256<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part.as_ref());
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Formats each byte as two lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns `length` random bytes from the system, formatted by [`hex`].
pub fn random_hex(length: usize) -> io::Result<String> {
    let mut bytes = vec![0; length];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system provides no random numbers"))?;
    Ok(hex(&bytes))
}

/// Returns the FNV-1a hash, which is the same in every build and on every machine.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Returns the length of an incomplete UTF-8 character at the end.
pub fn incomplete_end(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    let end = last.map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(end) {
        Err(error) if error.error_len().is_none() => end.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_characters_are_counted() {
        assert_eq!(incomplete_end(b"abc"), 0);
        assert_eq!(incomplete_end("é".as_bytes()), 0);
        assert_eq!(incomplete_end(&"é".as_bytes()[..1]), 1);
        assert_eq!(incomplete_end(&"€".as_bytes()[..2]), 2);
        assert_eq!(incomplete_end(&"😀".as_bytes()[..3]), 3);
        assert_eq!(incomplete_end(&[0xff, 0x80]), 0);
        assert_eq!(incomplete_end(b""), 0);
    }
}
