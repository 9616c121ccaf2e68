//! Limits the egress policy that a client may request to the ceiling that the
//! operator has configured.

use super::error::{Error, Result};
use crate::egress::{Mode, Policy, Rule, presets};

/// Returns the requested policy, or `None` if the client requested none.
///
/// `default`: the policy of the settings. Fails with [`Error::Ceiling`] if the
/// request exceeds `ceiling`.
pub fn requested_policy(
    egress: Option<&str>,
    allow: &[String],
    default: &Policy,
    ceiling: Mode,
) -> Result<Option<Policy>> {
    let mode = match egress {
        None if allow.is_empty() => return Ok(None),
        None => default.mode,
        Some(name) => Mode::from_name(name).ok_or_else(|| {
            Error::invalid(format!(
                "egress {name:?}: use \"unrestricted\", \"agent\" or \"allowlist\""
            ))
        })?,
    };
    if mode == Mode::Unrestricted && !allow.is_empty() {
        return Err(Error::invalid(
            "allow has no effect with egress \"unrestricted\": omit it, or request egress \
             \"agent\" or \"allowlist\"",
        ));
    }
    let limit = default.in_mode(ceiling);
    if mode < ceiling {
        return Err(Error::Ceiling(format!(
            "egress {:?} exceeds the ceiling {:?}",
            mode.as_str(),
            ceiling.as_str()
        )));
    }
    let mut policy = default.in_mode(mode);
    for text in allow {
        let rule: Rule = text
            .parse()
            .map_err(|e| Error::invalid(format!("allow: {e}")))?;
        let within = ceiling == Mode::Unrestricted
            || limit
                .rules_in_force(presets())
                .iter()
                .any(|permitted| permitted.covers(&rule));
        if !within {
            return Err(Error::Ceiling(format!(
                "allow {rule} exceeds the ceiling {:?}",
                ceiling.as_str()
            )));
        }
        if !policy.allow.contains(&rule) {
            policy.allow.push(rule);
        }
    }
    Ok(Some(policy))
}

/// Narrows the policy of a base or sandbox to `ceiling`. `default`: the policy
/// of the settings.
pub fn within_ceiling(policy: &Policy, default: &Policy, ceiling: Mode) -> Policy {
    match ceiling {
        Mode::Unrestricted => policy.clone(),
        // The policy itself if it is within the ceiling.
        _ => policy.narrower(&default.in_mode(ceiling), presets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(egress: Option<&str>, allow: &[&str], ceiling: Mode) -> Result<Option<Policy>> {
        let default = Policy::new(ceiling, ["own.example".parse().unwrap()]);
        let allow: Vec<String> = allow.iter().map(|it| (*it).to_owned()).collect();
        requested_policy(egress, &allow, &default, ceiling)
    }

    #[test]
    fn requests_above_the_ceiling_fail() {
        use Mode::{Agent, Allowlist, Unrestricted};
        assert!(request(None, &[], Agent).unwrap().is_none());
        for (egress, allow, ceiling) in [
            (Some("unrestricted"), &[][..], Agent),
            (Some("agent"), &[], Allowlist),
            (Some("allowlist"), &["other.example"], Allowlist),
            (Some("agent"), &["other.example"], Agent),
            (None, &["other.example"], Agent),
            (None, &["10.0.0.0/8"], Agent),
        ] {
            let refused = request(egress, allow, ceiling);
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
            let granted = request(egress, allow, ceiling);
            assert!(granted.unwrap().is_some(), "{egress:?} {allow:?}");
        }
        for (egress, allow) in [
            (Some("open"), &[][..]),
            (Some("unrestricted"), &["a.example"]),
            (Some("agent"), &["a b"]),
        ] {
            let refused = request(egress, allow, Unrestricted);
            assert!(
                matches!(refused, Err(Error::Invalid(_))),
                "{egress:?} {allow:?}"
            );
        }
    }

    #[test]
    fn policies_are_narrowed_to_the_ceiling() {
        use Mode::{Agent, Allowlist, Unrestricted};
        let policy = |mode, allow: &[&str]| {
            Policy::new(mode, allow.iter().map(|rule| rule.parse().unwrap()))
        };
        let default = policy(Unrestricted, &["own.example"]);
        let both = policy(Agent, &["own.example", "other.example"]);
        for (ceiling, narrowed) in [
            (Unrestricted, both.clone()),
            (Agent, policy(Agent, &["own.example"])),
            (Allowlist, policy(Allowlist, &["own.example"])),
        ] {
            assert_eq!(within_ceiling(&both, &default, ceiling), narrowed);
        }
    }
}
