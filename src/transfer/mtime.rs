//! Modification times, compared with the precision that both sides support.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// A modification time since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtime {
    pub seconds: i64,
    pub nanos: u32,
}

impl Mtime {
    pub fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }

    pub fn from_metadata(meta: &Metadata) -> Self {
        Self {
            seconds: meta.mtime(),
            nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        }
    }

    /// Parses the format of `find -printf %T@`, such as `1700000000.25`.
    pub fn parse(text: &str) -> Option<Self> {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = fraction.get(..9).unwrap_or(fraction);
        Some(Self {
            seconds: seconds.parse().ok()?,
            nanos: format!("{digits:0<9}").parse().ok()?,
        })
    }

    /// Whether both times may be from the same change. Some transfers and file
    /// systems drop fractions of a second, so a fraction of 0 matches any fraction.
    pub fn matches(self, other: Self) -> bool {
        self.seconds == other.seconds
            && (self.nanos == other.nanos || self.nanos == 0 || other.nanos == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_parsed_and_compared_if_both_have_one() {
        let time = |text| Mtime::parse(text).unwrap();
        assert_eq!(time("17.5").nanos, 500_000_000);
        assert_eq!(time("17.0000000420").nanos, 42);
        let negative = time("-1.9");
        assert_eq!((negative.seconds, negative.nanos), (-1, 900_000_000));
        assert_eq!(time("17"), Mtime::from_seconds(17));
        assert!(Mtime::parse("x.5").is_none() && Mtime::parse("1.é").is_none());
        assert!(time("1.5").matches(time("1.5")) && time("1.5").matches(time("1")));
        assert!(!time("1.5").matches(time("1.6")) && !time("1").matches(time("2")));
    }
}
