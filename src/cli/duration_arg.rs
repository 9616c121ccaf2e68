//! Durations on the command line.

use std::time::Duration;

use crate::model::parse_duration;

/// Parses an expiry or interval of at least one second: `90m`, `1h30m`, or
/// whole days such as `7d`.
pub fn parse_duration_arg(text: &str) -> Result<Duration, String> {
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.parse::<u32>().ok());
    let duration = match days {
        Some(days) => Some(Duration::from_secs(u64::from(days) * 86400)),
        None => parse_duration(text),
    };
    match duration {
        Some(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        _ => Err("expected a duration of at least a second, such as 90m, 2h or 7d".into()),
    }
}

/// Parses a time limit: seconds such as `90`, or a duration such as `1h30m`.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => parse_duration(text),
    };
    match duration {
        Some(Duration::ZERO) => Err("the time limit must be greater than 0".into()),
        Some(duration) => Ok(duration),
        None => Err("expected a duration such as 90s, 5m or 1h30m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_arg_accepts_days_and_rejects_less_than_a_second() {
        let days = parse_duration_arg("7d");
        assert_eq!(days, Ok(Duration::from_secs(7 * 86400)));
        let hours = parse_duration_arg("1h30m");
        assert_eq!(hours, Ok(Duration::from_secs(5400)));
        for bad in ["", "0s", "1ms", "0d", "-1d", "d", "tomorrow", "never", "90"] {
            assert!(parse_duration_arg(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn timeout_accepts_plain_seconds_and_rejects_zero() {
        assert_eq!(parse_timeout("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("1m"), Ok(Duration::from_secs(60)));
        for bad in ["0", "0s", "-1", "inf", "soon"] {
            assert!(parse_timeout(bad).is_err(), "{bad}");
        }
    }
}
