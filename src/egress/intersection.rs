//! Comparison and intersection of policies.

use std::collections::BTreeSet;

use super::cidr::{PRIVATE, RESERVED};
use super::policy::{Mode, Policy, ResolvedPolicy};
use super::presets::Presets;
use super::rule::{Rule, Target};

impl Policy {
    /// Whether this policy allows all destinations that `other` allows.
    pub fn covers(&self, other: &Self, presets: &Presets) -> bool {
        self.resolve(presets).covers(&other.resolve(presets))
    }

    /// Returns the narrower of two policies. If neither allows all destinations
    /// of the other, returns a policy that allows only destinations that both
    /// allow. The mode is the less permissive one.
    pub fn narrower(&self, other: &Self, presets: &Presets) -> Self {
        if other.covers(self, presets) {
            return self.clone();
        }
        if self.covers(other, presets) {
            return other.clone();
        }
        let (ours, theirs) = (self.resolve(presets), other.resolve(presets));
        let common = ours.common_rules(&theirs);
        let mut policy = Self::new(self.mode.max(other.mode), []);
        policy.lan = self.lan && other.lan;
        policy.preset_cidrs = self.preset_cidrs && other.preset_cidrs;
        if policy.mode == Mode::Agent {
            let preset = presets.rules(policy.preset_cidrs);
            policy.deny = preset
                .filter(|rule| !common.contains(rule))
                .cloned()
                .collect();
        }
        let preset = policy.rules_in_force(presets);
        let is_new = |rule: &Rule| !preset.iter().any(|preset| preset.covers(rule));
        policy.allow = common.into_iter().filter(is_new).collect();
        policy
    }
}

impl ResolvedPolicy {
    fn covers(&self, other: &Self) -> bool {
        if other.open && !self.open || other.lan && !self.lan {
            return false;
        }
        other
            .rules
            .iter()
            .all(|rule| self.opens(rule) || self.rules.iter().any(|own| own.covers(rule)))
    }

    /// Whether the mode alone allows all destinations of a rule.
    fn opens(&self, rule: &Rule) -> bool {
        self.open && (self.lan || is_public(&rule.target))
    }

    /// The rules for the destinations that both policies allow, except those
    /// that the modes allow.
    fn common_rules(&self, other: &Self) -> BTreeSet<Rule> {
        let both = self.rules.iter().flat_map(|rule| {
            let intersection = |other| rule.intersection(other);
            other.rules.iter().filter_map(intersection)
        });
        let ours = self.rules.iter().filter(|rule| other.opens(rule));
        let theirs = other.rules.iter().filter(|rule| self.opens(rule));
        both.chain(ours.chain(theirs).cloned()).collect()
    }
}

/// Whether the mode unrestricted allows the whole target.
fn is_public(target: &Target) -> bool {
    let Target::Net(net) = target else {
        return true;
    };
    let closed = PRIVATE.iter().chain(&RESERVED);
    net.is_v4()
        && closed
            .flat_map(|text| text.parse())
            .all(|closed| !net.covers(closed) && !closed.covers(*net))
}

impl Rule {
    /// The rule that allows exactly what both rules allow. `None` if there is
    /// no such destination, and for a name and a network.
    fn intersection(&self, other: &Self) -> Option<Self> {
        let port = match (self.port, other.port) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let with_port = |rule: &Self| Self {
            port,
            ..rule.clone()
        };
        let (ours, theirs) = (with_port(self), with_port(other));
        if theirs.covers(&ours) {
            Some(ours)
        } else {
            ours.covers(&theirs).then_some(theirs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::presets::presets;

    fn policy(mode: Mode, allow: &[&str]) -> Policy {
        Policy::new(mode, allow.iter().map(|rule| rule.parse().unwrap()))
    }

    #[test]
    fn narrower_policy_allows_nothing_that_one_of_both_denies() {
        use Mode::{Agent, Allowlist, Unrestricted};
        let open = policy(Unrestricted, &[]);
        let agent = policy(Agent, &[]);
        let mut without_preset_rule = agent.clone();
        let preset_rule = presets().rules(false).next().unwrap().clone();
        without_preset_rule
            .deny(preset_rule.clone(), presets())
            .unwrap();
        let preset_rule = preset_rule.to_string();
        let mut lan = open.clone();
        lan.lan = true;
        let mut names = policy(Allowlist, &["a.test"]);
        names.lan = true;
        for (present, earlier, expected) in [
            // One policy contains the other.
            (
                policy(Allowlist, &["a.test"]),
                policy(Allowlist, &["a.test", "b.test"]),
                None,
            ),
            (
                policy(Allowlist, &["a.test:443"]),
                policy(Allowlist, &["*.test", "a.test"]),
                None,
            ),
            (without_preset_rule.clone(), agent.clone(), None),
            (agent.clone(), open.clone(), None),
            (policy(Agent, &["10.0.0.1"]), lan.clone(), None),
            (open.clone(), lan, None),
            (policy(Allowlist, &["a.test"]), names, None),
            (
                policy(Allowlist, &["192.0.2.7:22"]),
                policy(Allowlist, &["192.0.2.0/24"]),
                None,
            ),
            (policy(Allowlist, &["192.0.2.7"]), open.clone(), None),
            // Neither contains the other.
            (
                policy(Allowlist, &["a.test", "b.test"]),
                policy(Allowlist, &["b.test", "c.test"]),
                Some(policy(Allowlist, &["b.test"])),
            ),
            (
                policy(Allowlist, &["*.test:443", "c.test"]),
                policy(Allowlist, &["a.test", "192.0.2.1"]),
                Some(policy(Allowlist, &["a.test:443"])),
            ),
            (
                policy(Allowlist, &[&preset_rule, "b.test"]),
                without_preset_rule,
                Some(policy(Allowlist, &[])),
            ),
            (
                policy(Agent, &["a.test"]),
                policy(Agent, &["b.test"]),
                Some(agent),
            ),
            (
                policy(Allowlist, &["10.0.0.1", "a.test", "192.0.2.1"]),
                open,
                Some(policy(Allowlist, &["a.test", "192.0.2.1"])),
            ),
            (
                policy(Unrestricted, &["10.0.0.1", "10.0.0.2"]),
                policy(Unrestricted, &["10.0.0.0/31"]),
                Some(policy(Unrestricted, &["10.0.0.1"])),
            ),
        ] {
            let narrow = expected.clone().unwrap_or_else(|| present.clone());
            assert_eq!(
                present.narrower(&earlier, presets()),
                narrow,
                "{present:?} {earlier:?}"
            );
            if expected.is_none() {
                assert_eq!(earlier.narrower(&present, presets()), narrow);
                assert!(
                    !present.covers(&earlier, presets()),
                    "{present:?} {earlier:?}"
                );
            }
        }
    }
}
