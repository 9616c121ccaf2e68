//! Durations as Go writes them: `90s`, `1h30m`, `1.5h`, `250ms`.

use std::time::Duration;

const NANOSECOND: u128 = 1;
const MICROSECOND: u128 = 1_000 * NANOSECOND;
const MILLISECOND: u128 = 1_000 * MICROSECOND;
const SECOND: u128 = 1_000 * MILLISECOND;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;

/// Reads a duration above zero; `None` when the text is not one. The upper
/// bound is Go's, some 292 years.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (amount, after) = split_where(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_where(after, |c| c.is_ascii_digit() || c == '.');
        total = total.checked_add(part(amount, unit_of(unit)?)?)?;
        rest = after;
    }
    let nanoseconds = i64::try_from(total).ok().filter(|total| *total > 0)?;
    Some(Duration::from_nanos(nanoseconds.unsigned_abs()))
}

fn split_where(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

fn unit_of(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => NANOSECOND,
        // The micro sign and the Greek letter look the same and are both in use.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

fn part(amount: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?
    };
    let mut nanoseconds = u128::from(whole).checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.bytes().map(|byte| u128::from(byte - b'0')) {
        // Digits below a nanosecond are cut off, as Go does.
        nanoseconds += digit * place / 10;
        place /= 10;
    }
    Some(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_syntax_is_read() {
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
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
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
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
