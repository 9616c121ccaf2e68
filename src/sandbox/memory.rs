//! Amounts of memory, as people write them.

/// With less, no usual system comes up.
const LEAST: u64 = 16 * 1024 * 1024;

/// Bytes of a text in MiB, with or without a unit.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = Some(digits)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or("expected a number of MiB, or one with MiB or GiB")?;
    let unit: u64 = match &text[digits.len()..] {
        "" | "MiB" | "M" => 1024 * 1024,
        "GiB" | "G" => 1024 * 1024 * 1024,
        other => return Err(format!("unknown unit {other:?}: use MiB or GiB")),
    };
    match number.checked_mul(unit) {
        Some(bytes) if bytes < LEAST => {
            Err("a pixel needs at least 16 MiB; for GiB, add the unit: 4GiB".into())
        }
        Some(bytes) => Ok(bytes),
        None => Err("that is more memory than can be counted".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_memory;

    #[test]
    fn memory_is_mib_unless_a_unit_says_otherwise() {
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
    }
}
