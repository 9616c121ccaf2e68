//! Formats and parses time stamps in RFC 3339 format.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Formats seconds since 1970 in UTC. Returns `None` outside the years 0 to 9999.
pub fn rfc3339(unix_seconds: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp(unix_seconds).ok()?;
    time.format(&Rfc3339).ok()
}

/// Parses a time stamp to seconds since 1970. Truncates fractions of a second.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(time.unix_timestamp())
}
