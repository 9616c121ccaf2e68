//! What a client may ask a sandbox to reach: never more than the ceiling.

use super::error::{Error, Result};
use crate::egress::{Mode, Policy, Rule, presets};

/// The policy a client asked for; `None` when it asked for none.
///
/// `usual` is that of the settings, `ceiling` the most that may be asked for.
pub fn requested_policy(
    egress: Option<&str>,
    allow: &[String],
    usual: &Policy,
    ceiling: Mode,
) -> Result<Option<Policy>> {
    let mode = match egress {
        None if allow.is_empty() => return Ok(None),
        None => usual.mode,
        Some("unrestricted") => Mode::Unrestricted,
        Some("agent") => Mode::Agent,
        Some("allowlist") => Mode::Allowlist,
        Some(other) => {
            return Err(Error::invalid(format!(
                "egress {other:?}: use \"unrestricted\", \"agent\" or \"allowlist\""
            )));
        }
    };
    if mode == Mode::Unrestricted && !allow.is_empty() {
        return Err(Error::invalid(
            "allow adds nothing to egress \"unrestricted\": leave it out, or ask for egress \
             \"agent\" or \"allowlist\"",
        ));
    }
    let limit = usual.in_mode(ceiling);
    if rank(mode) > rank(ceiling) {
        return Err(Error::Ceiling(format!(
            "egress {:?} is more than {:?}",
            mode.as_str(),
            ceiling.as_str()
        )));
    }
    let mut policy = usual.in_mode(mode);
    for text in allow {
        let entry: Rule = text
            .parse()
            .map_err(|e| Error::invalid(format!("allow: {e}")))?;
        let within = ceiling == Mode::Unrestricted
            || limit
                .rules_in_force(presets())
                .iter()
                .any(|admitted| admitted.covers(&entry));
        if !within {
            return Err(Error::Ceiling(format!("allow {entry} is not within it")));
        }
        if !policy.allow.contains(&entry) {
            policy.allow.push(entry);
        }
    }
    Ok(Some(policy))
}

fn rank(mode: Mode) -> u8 {
    match mode {
        Mode::Allowlist => 0,
        Mode::Agent => 1,
        Mode::Unrestricted => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(egress: Option<&str>, allow: &[&str], ceiling: Mode) -> Result<Option<Policy>> {
        let usual = Policy::new(ceiling, ["own.example".parse().unwrap()]);
        let allow: Vec<String> = allow.iter().map(|it| (*it).to_owned()).collect();
        requested_policy(egress, &allow, &usual, ceiling)
    }

    #[test]
    fn nobody_gets_more_than_the_ceiling() {
        use Mode::{Agent, Allowlist, Unrestricted};
        assert!(ask(None, &[], Agent).unwrap().is_none());
        for (egress, allow, ceiling) in [
            (Some("unrestricted"), &[][..], Agent),
            (Some("agent"), &[], Allowlist),
            (Some("allowlist"), &["other.example"], Allowlist),
            (Some("agent"), &["other.example"], Agent),
            (None, &["other.example"], Agent),
            (None, &["10.0.0.0/8"], Agent),
        ] {
            let refused = ask(egress, allow, ceiling);
            assert!(
                matches!(refused, Err(Error::Ceiling(_))),
                "{egress:?} {allow:?}"
            );
        }
        for (egress, allow, ceiling) in [
            (Some("allowlist"), &["own.example:443"][..], Agent),
            (Some("allowlist"), &["github.com"], Agent),
            (Some("allowlist"), &["other.example"], Unrestricted),
            (Some("agent"), &[], Agent),
        ] {
            let given = ask(egress, allow, ceiling);
            assert!(given.unwrap().is_some(), "{egress:?} {allow:?}");
        }
        for (egress, allow) in [
            (Some("open"), &[][..]),
            (Some("unrestricted"), &["a.example"]),
            (Some("agent"), &["a b"]),
        ] {
            let refused = ask(egress, allow, Unrestricted);
            assert!(
                matches!(refused, Err(Error::Invalid(_))),
                "{egress:?} {allow:?}"
            );
        }
    }
}
