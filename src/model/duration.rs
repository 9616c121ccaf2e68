//! Durations in Go's syntax: `90s`, `1h30m`, `1.5h`, `250ms`.

use std::time::Duration;

/// Parses a duration above zero, up to Go's maximum of 292 years. Returns
/// `None` if the text is not a duration.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (amount, after) = split_at_first(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_at_first(after, |c| c.is_ascii_digit() || c == '.');
        total = total.checked_add(nanoseconds(amount, unit)?)?;
        rest = after;
    }
    let total = i64::try_from(total).ok().filter(|total| *total > 0)?;
    Some(Duration::from_nanos(total.unsigned_abs()))
}

fn split_at_first(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

fn nanoseconds(amount: &str, unit: &str) -> Option<u128> {
    let unit: u128 = match unit {
        "ns" => 1,
        // The micro sign and the Greek letter mu look the same, and users type both.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?
    };
    let mut total = u128::from(whole).checked_mul(unit)?;
    let mut digit_unit = unit;
    for digit in fraction.bytes().map(|byte| u128::from(byte - b'0')) {
        // Truncates digits below one nanosecond, like Go.
        total += digit * digit_unit / 10;
        digit_unit /= 10;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, expected) in [
            ("90s", Duration::from_secs(90)),
            ("1h30m", Duration::from_secs(5400)),
            ("1.5h", Duration::from_secs(5400)),
            (".5s", Duration::from_millis(500)),
            ("1.s", Duration::from_secs(1)),
            ("+1m", Duration::from_secs(60)),
            ("250ms", Duration::from_millis(250)),
            ("3us", Duration::from_micros(3)),
            ("3\u{b5}s", Duration::from_micros(3)),
            ("3\u{3bc}s", Duration::from_micros(3)),
            ("7ns", Duration::from_nanos(7)),
            ("1h0m0.25s", Duration::from_millis(3_600_250)),
            ("1.000000001s", Duration::new(1, 1)),
        ] {
            assert_eq!(parse_duration(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_text_is_rejected() {
        for text in [
            "",
            "0",
            "0s",
            "0h0m",
            "-1s",
            "+",
            "90",
            "s",
            ".s",
            "1.2.3s",
            "1d",
            "1 h",
            " 1h",
            "1h ",
            "1H",
            "h1",
            "1e3s",
            "0.1ns",
            "٣s",
            "1-s",
            "2562048h",
            "99999999999999999999h",
        ] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }
}
