//! The result of an attempt to bypass a policy.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Blocked,
    GotOut,
    /// The attempt failed, but would have failed without a policy too.
    Inconclusive,
    NotRun,
}

/// The result of an attempt to bypass a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    pub attempt: String,
    pub result: Verdict,
    /// How the attempt succeeded, or why it proves nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Attempt {
    pub fn new(attempt: &str, result: Verdict, detail: String) -> Self {
        Self {
            attempt: attempt.to_owned(),
            result,
            detail,
        }
    }
}

/// Judges an attempt by the ways in which it has succeeded. `unproven`: why a
/// failed attempt proves nothing.
pub fn judge(name: &str, ways: &[String], unproven: Option<&str>) -> Attempt {
    match unproven {
        _ if !ways.is_empty() => Attempt::new(name, Verdict::GotOut, ways.join(", ")),
        None => Attempt::new(name, Verdict::Blocked, String::new()),
        Some(reason) => Attempt::new(name, Verdict::Inconclusive, reason.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_attempt_without_control_is_inconclusive() {
        let ways = ["left the gateway".to_owned()];
        for (ways, unproven, verdict) in [
            (&ways[..], None, Verdict::GotOut),
            (&ways[..], Some("x"), Verdict::GotOut),
            (&[], None, Verdict::Blocked),
            (&[], Some("x"), Verdict::Inconclusive),
        ] {
            assert_eq!(judge("a", ways, unproven).result, verdict);
        }
    }
}
