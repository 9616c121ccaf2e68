//! Formats tables, sizes and durations as text.

use std::time::Duration;

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

use crate::plain::plain;

/// A row of a table, which is also a JSON object.
pub trait Row: Serialize {
    const HEADERS: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

/// Formats rows as left-aligned columns, two spaces apart, below a header line.
pub fn table<T: Row>(rows: &[T]) -> String {
    let mut builder = Builder::default();
    builder.push_record(T::HEADERS.iter().copied());
    for row in rows {
        builder.push_record(row.cells().iter().map(|cell| plain(cell)));
    }
    let aligned = builder
        .build()
        .with(Style::empty())
        .with(Padding::new(0, 2, 0, 0))
        .to_string();
    let lines = aligned.lines();
    lines.flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// Formats a duration as `12.3s` or `1m2.3s`, rounded down.
pub fn elapsed(time: Duration) -> String {
    let tenths = time.as_millis() / 100;
    let (minutes, tenths) = (tenths / 600, tenths % 600);
    let seconds = format!("{}.{}s", tenths / 10, tenths % 10);
    if minutes == 0 {
        seconds
    } else {
        format!("{minutes}m{seconds}")
    }
}

/// Formats a duration in its two largest units, rounded down: `2d 3h`, `1h 59m`,
/// `59m`, `20s`.
pub fn human_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// Returns whole milliseconds, for JSON output.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Formats a size as `512 B`, `1.5 GiB` or `42 MiB`.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit > 0 && value < 10.0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const HEADERS: &'static [&'static str] = &["NAME", "STATUS"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.into(), self.1.into()]
        }
    }

    #[test]
    fn table_columns_aligned_without_trailing_spaces() {
        let text = table(&[Pair("a", "RUNNING"), Pair("longer-name", "STOPPED")]);
        assert_eq!(
            text,
            "NAME         STATUS\na            RUNNING\nlonger-name  STOPPED\n"
        );
    }

    #[test]
    fn durations_and_sizes_formatted() {
        assert_eq!(elapsed(Duration::from_millis(12_399)), "12.3s");
        assert_eq!(elapsed(Duration::from_millis(62_300)), "1m2.3s");
        assert_eq!(human_duration(Duration::from_secs(59)), "59s");
        assert_eq!(human_duration(Duration::from_secs(7199)), "1h 59m");
        assert_eq!(human_duration(Duration::from_secs(7 * 86400)), "7d 0h");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536 * 1024 * 1024), "1.5 GiB");
        assert_eq!(bytes(42 * 1024 * 1024), "42 MiB");
    }
}
