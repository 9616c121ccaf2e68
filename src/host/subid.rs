//! Root's subordinate id ranges in `/etc/subuid` and `/etc/subgid`, which
//! containers use.

/// Number of ids that a container needs.
pub const MINIMUM: u64 = 65_536;
/// Number of ids that Incus recommends, enough for many isolated containers.
const WANTED: u64 = 1_000_000_000;
const FIRST_ID: u64 = 1_000_000;

/// Returns the size of root's largest range in a subuid or subgid file. 0 if
/// root has no range.
pub fn root_range(text: &str) -> u64 {
    ranges(text)
        .filter(|(owner, _, _)| matches!(*owner, "root" | "0"))
        .map(|(_, _, count)| count)
        .max()
        .unwrap_or(0)
}

/// Returns a line with a range for root that starts after all other ranges.
/// `limit` is the highest id of this machine plus one. `None` if fewer than
/// [`MINIMUM`] ids remain.
pub fn line_for_root(text: &str, limit: u64) -> Option<String> {
    let start = ranges(text)
        .map(|(_, start, count)| start.saturating_add(count))
        .fold(FIRST_ID, u64::max);
    let count = limit.saturating_sub(start).min(WANTED);
    (count >= MINIMUM).then(|| format!("root:{start}:{count}"))
}

/// Returns the highest id of this machine plus one, from `/proc/self/uid_map`.
/// In a container, only some ids exist.
pub fn limit(id_map: &str) -> u64 {
    let last = id_map
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let inside: u64 = fields.next()?.parse().ok()?;
            let count: u64 = fields.nth(1)?.parse().ok()?;
            Some(inside.saturating_add(count))
        })
        .max();
    last.unwrap_or(u64::from(u32::MAX))
}

fn ranges(text: &str) -> impl Iterator<Item = (&str, u64, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let start = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        Some((owner, start, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: u64 = u32::MAX as u64;

    #[test]
    fn root_range_finds_root_by_name_or_number() {
        assert_eq!(root_range("root:1000000:1000000000\n"), 1_000_000_000);
        assert_eq!(root_range("me:100000:65536\n0:500000:65536"), 65_536);
        assert_eq!(root_range("me:100000:65536\nbroken\nroot:x:1"), 0);
    }

    #[test]
    fn line_for_root_overlaps_no_range() {
        let line = |text, limit| line_for_root(text, limit);
        assert_eq!(line("", WHOLE).unwrap(), "root:1000000:1000000000");
        assert_eq!(
            line("me:100000:65536\nyou:1500000:65536\n", WHOLE).unwrap(),
            "root:1565536:1000000000"
        );
        assert_eq!(
            line("", 2_000_000).unwrap(),
            "root:1000000:1000000",
            "in a container, the range ends at its last id"
        );
        assert_eq!(line("", 65_536), None);
    }

    #[test]
    fn limit_is_the_end_of_the_id_map() {
        assert_eq!(limit("         0          0 4294967295\n"), WHOLE);
        assert_eq!(limit("0 1000000 1000\n1000 5000 64536\n"), 65_536);
    }
}
