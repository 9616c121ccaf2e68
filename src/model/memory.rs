//! Parses and prints amounts of memory and disk space.

use std::fmt;

/// Minimum memory of a pixel in bytes. No common system boots with less memory.
pub const LEAST_MEMORY: u64 = 16 * 1024 * 1024;

/// Minimum disk space of a pixel in bytes. Smaller disks have no space for an image.
pub const LEAST_DISK: u64 = 256 * 1024 * 1024;

/// Parses a number of MiB, or a number with the unit MiB or GiB, to bytes.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes < LEAST_MEMORY => {
            Err("a pixel needs at least 16 MiB; for GiB, add the unit: 4GiB".into())
        }
        bytes => Ok(bytes),
    }
}

/// Like [`parse_memory`], for disk space.
pub fn parse_disk(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes if bytes < LEAST_DISK => {
            Err("a pixel needs at least 256 MiB; for GiB, add the unit: 20GiB".into())
        }
        bytes => Ok(bytes),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = Some(digits)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or("expected a number of MiB, or a number with MiB or GiB")?;
    let unit: u64 = match &text[digits.len()..] {
        "" | "MiB" | "M" => 1024 * 1024,
        "GiB" | "G" => 1024 * 1024 * 1024,
        other => return Err(format!("unknown unit {other:?}: use MiB or GiB")),
    };
    let bytes = number.checked_mul(unit);
    bytes.ok_or_else(|| "value out of range".into())
}

/// A size in bytes, printed in the largest unit that needs no fraction.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let whole = |unit: &u64| self.0 >= *unit && self.0.is_multiple_of(*unit);
        match units.iter().find(|(unit, _)| whole(unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_memory_defaults_to_mib() {
        assert_eq!(parse_memory("512"), Ok(512 << 20));
        assert_eq!(parse_memory("4GiB"), Ok(4 << 30));
        assert_eq!(parse_memory("16"), Ok(16 << 20));
        for bad in [
            "",
            "x",
            "+1",
            "1.5",
            "4TB",
            "0",
            "4",
            "15MiB",
            "99999999999999GiB",
        ] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_disk("256"), Ok(256 << 20));
        assert!(parse_disk("20").is_err());
    }

    #[test]
    fn size_is_printed_without_fractions() {
        let sizes = [0, 1000, 3 << 10, 64 << 20, 1 << 30, (1 << 20) + 1];
        assert_eq!(
            sizes.map(|bytes| Size(bytes).to_string()),
            [
                "0 bytes",
                "1000 bytes",
                "3 KiB",
                "64 MiB",
                "1 GiB",
                "1048577 bytes"
            ]
        );
    }
}
