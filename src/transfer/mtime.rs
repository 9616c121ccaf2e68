//! When a file was last changed, as far as either side knows it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtime {
    pub seconds: i64,
    pub nanos: u32,
}

impl Mtime {
    pub fn seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }

    pub fn of(meta: &Metadata) -> Self {
        Self {
            seconds: meta.mtime(),
            nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        }
    }

    /// `1700000000.25`, as `find` prints it.
    pub fn parse(text: &str) -> Option<Self> {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = fraction.get(..9).unwrap_or(fraction);
        Some(Self {
            seconds: seconds.parse().ok()?,
            nanos: format!("{digits:0<9}").parse().ok()?,
        })
    }

    /// Whether the two can be the time of one and the same change: not every
    /// way here, and not every filesystem, keeps fractions of a second.
    pub fn agrees(self, other: Self) -> bool {
        self.seconds == other.seconds
            && (self.nanos == other.nanos || self.nanos == 0 || other.nanos == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_read_and_compared_where_both_have_them() {
        let time = |text| Mtime::parse(text).unwrap();
        assert_eq!(time("17.5").nanos, 500_000_000);
        assert_eq!(time("17.0000000420").nanos, 42);
        assert_eq!(
            time("-1.9"),
            Mtime {
                seconds: -1,
                nanos: 900_000_000
            }
        );
        assert_eq!(time("17"), Mtime::seconds(17));
        assert!(Mtime::parse("x.5").is_none() && Mtime::parse("1.é").is_none());
        assert!(time("1.5").agrees(time("1.5")) && time("1.5").agrees(time("1")));
        assert!(!time("1.5").agrees(time("1.6")) && !time("1").agrees(time("2")));
    }
}
