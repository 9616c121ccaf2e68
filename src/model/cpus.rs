//! Parses CPU counts and CPU sets.

/// Validates a CPU count (`2`) or a CPU set (`0-3`, `0,2`). Returns the text
/// unchanged, because servers accept this format.
pub fn parse_cpus(text: &str) -> Result<String, String> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    if let Some(count) = number(text) {
        return match count {
            0 => Err("a pixel needs at least 1 CPU".into()),
            _ => Ok(text.to_owned()),
        };
    }
    let is_valid = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => matches!(
            (number(first), number(last)),
            (Some(first), Some(last)) if first <= last
        ),
    };
    if text.contains(['-', ',']) && text.split(',').all(is_valid) {
        return Ok(text.to_owned());
    }
    Err("expected a count such as 2, or a set such as 0-3".into())
}

/// Returns the number of CPUs in a count or set that [`parse_cpus`] accepts.
pub fn count_cpus(text: &str) -> u64 {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    if !text.contains(['-', ',']) {
        return number(text);
    }
    let size = |part: &str| match part.split_once('-') {
        None => 1,
        Some((first, last)) => (number(last) + 1).saturating_sub(number(first)),
    };
    text.split(',').map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::{count_cpus, parse_cpus};

    #[test]
    fn count_cpus_counts_the_members_of_sets() {
        for (text, count) in [("3", 3), ("0-3", 4), ("1-1", 1), ("0,2", 2), ("0-1,3", 3)] {
            assert_eq!(count_cpus(text), count, "{text}");
        }
    }

    #[test]
    fn parse_cpus_accepts_counts_and_sets() {
        for good in ["1", "64", "0-3", "1-1", "0,2", "0-1,3"] {
            assert_eq!(parse_cpus(good), Ok(good.to_owned()));
        }
        for bad in [
            "", "0", "two", "-1", "+1", "1.5", "3-1", "1-", "1,", ",", "1 2",
        ] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }
}
