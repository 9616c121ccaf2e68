//! Egress policies: a mode, additional rules, and removed preset rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::cidr::is_closed;
use super::domain::Domain;
use super::presets::Presets;
use super::rule::{Rule, Target};

/// The instance property that stores the policy.
pub const KEY: &str = "egress";

/// Egress modes, ordered from most to least permissive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The internet, but not private networks, the host or other pixels.
    Unrestricted,
    /// The preset rules and the additional rules.
    Agent,
    /// Only the additional rules.
    Allowlist,
}

impl Mode {
    pub const NAMES: &'static [&'static str] = &["unrestricted", "agent", "allowlist"];

    pub fn from_name(name: &str) -> Option<Self> {
        let modes = [Self::Unrestricted, Self::Agent, Self::Allowlist];
        modes.into_iter().find(|mode| mode.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unrestricted => "unrestricted",
            Self::Agent => "agent",
            Self::Allowlist => "allowlist",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub mode: Mode,
    /// Additional rules, in the order in which they were added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Rule>,
    /// Preset rules that the user has removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Rule>,
    /// Whether the mode unrestricted allows private networks too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lan: bool,
    /// Whether to include the preset's wide address ranges.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preset_cidrs: bool,
}

/// A change that has no effect on the policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the mode unrestricted already allows {0}")]
    Unrestricted(Rule),
    #[error("cannot remove rules from the mode unrestricted")]
    NothingToDeny,
    #[error("{rule} is not in the policy{}", did_you_mean(.nearest))]
    NotInPolicy { rule: Rule, nearest: Option<Rule> },
}

fn did_you_mean(nearest: &Option<Rule>) -> String {
    nearest
        .as_ref()
        .map(|rule| format!(", which has {rule}"))
        .unwrap_or_default()
}

/// The stored policy is invalid. The caller must not assume any policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the stored policy: {0}")]
pub struct InvalidRecord(String);

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    #[serde(flatten)]
    policy: Policy,
}

const VERSION: u32 = 1;

impl Policy {
    pub fn new(mode: Mode, allow: impl IntoIterator<Item = Rule>) -> Self {
        let mut policy = Self {
            mode,
            allow: Vec::new(),
            deny: Vec::new(),
            lan: false,
            preset_cidrs: false,
        };
        for rule in allow {
            if !policy.allow.contains(&rule) {
                policy.allow.push(rule);
            }
        }
        policy
    }

    /// Returns the same policy in another mode. The mode unrestricted allows
    /// every host name, so it keeps only rules for networks.
    pub fn in_mode(&self, mode: Mode) -> Self {
        let mut policy = self.clone();
        policy.mode = mode;
        if mode == Mode::Unrestricted {
            policy
                .allow
                .retain(|rule| matches!(rule.target, Target::Net(_)));
        }
        policy
    }

    /// Encodes the policy as the value of the property.
    pub fn to_record(&self) -> String {
        let stored = Stored {
            version: VERSION,
            policy: self.clone(),
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Parses the value of the property. Without the property, the mode is
    /// unrestricted.
    pub fn from_record(text: Option<&str>) -> Result<Self, InvalidRecord> {
        let Some(text) = text else {
            return Ok(Self::new(Mode::Unrestricted, []));
        };
        let stored: Stored =
            serde_json::from_str(text).map_err(|e| InvalidRecord(e.to_string()))?;
        if stored.version != VERSION {
            return Err(InvalidRecord(format!(
                "it has version {}, written by another version of pixels",
                stored.version
            )));
        }
        Ok(stored.policy)
    }

    /// Adds a rule. Returns false if the rule already applies.
    pub fn allow(&mut self, rule: Rule, presets: &Presets) -> Result<bool, ChangeError> {
        // In the mode unrestricted, rules for networks allow private networks.
        let opens_lan = matches!(rule.target, Target::Net(_));
        if self.mode == Mode::Unrestricted && !opens_lan {
            return Err(ChangeError::Unrestricted(rule));
        }
        let before = self.deny.len();
        self.deny.retain(|denied| *denied != rule);
        let restored = self.deny.len() != before;
        let in_force = self.rules_in_force(presets).contains(&rule);
        if !in_force {
            self.allow.push(rule);
        }
        Ok(restored || !in_force)
    }

    /// Removes a rule, which may be a preset rule.
    pub fn deny(&mut self, rule: Rule, presets: &Presets) -> Result<(), ChangeError> {
        if self.mode == Mode::Unrestricted && !self.allow.contains(&rule) {
            return Err(ChangeError::NothingToDeny);
        }
        let in_force = self.rules_in_force(presets);
        if !in_force.contains(&rule) {
            let nearest = nearest(&rule, &in_force);
            return Err(ChangeError::NotInPolicy { rule, nearest });
        }
        self.allow.retain(|allowed| *allowed != rule);
        if self.mode == Mode::Agent
            && presets
                .rules(self.preset_cidrs)
                .any(|preset| *preset == rule)
        {
            self.deny.push(rule);
        }
        Ok(())
    }

    /// Returns all rules that apply: the additional rules and, in the mode
    /// agent, the preset rules.
    pub fn rules_in_force(&self, presets: &Presets) -> BTreeSet<Rule> {
        let mut rules: BTreeSet<Rule> = self.allow.iter().cloned().collect();
        if self.mode == Mode::Agent {
            let preset = presets.rules(self.preset_cidrs);
            rules.extend(preset.filter(|rule| !self.deny.contains(rule)).cloned());
        }
        rules
    }

    pub fn resolve(&self, presets: &Presets) -> ResolvedPolicy {
        ResolvedPolicy {
            open: self.mode == Mode::Unrestricted,
            lan: self.lan,
            rules: self.rules_in_force(presets),
        }
    }
}

/// Returns a rule that overlaps with `rule`, or else the rule with the most
/// similar spelling.
fn nearest(rule: &Rule, rules: &BTreeSet<Rule>) -> Option<Rule> {
    let overlapping = rules
        .iter()
        .find(|other| other.covers(rule) || rule.covers(other));
    let text = rule.to_string();
    let similar = || {
        rules
            .iter()
            .map(|other| {
                (
                    strsim::normalized_damerau_levenshtein(&text, &other.to_string()),
                    other,
                )
            })
            .filter(|(similarity, _)| *similarity > 0.6)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, other)| other)
    };
    overlapping.or_else(similar).cloned()
}

/// A policy with expanded presets, for the renderers. Policies that allow the
/// same destinations have equal resolved policies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolvedPolicy {
    /// Allows all destinations that are not private.
    pub open: bool,
    /// Also allows private destinations, if `open` is set.
    pub lan: bool,
    pub rules: BTreeSet<Rule>,
}

/// Whether a policy allows a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allowed {
        /// The first matching rule. `None` if the mode allows all destinations.
        by: Option<Rule>,
    },
    Denied,
}

impl ResolvedPolicy {
    /// A policy that allows no destination.
    pub fn deny_all() -> Self {
        Self {
            open: false,
            lan: false,
            rules: BTreeSet::new(),
        }
    }

    #[cfg(test)]
    pub fn allowing(rules: &[&str]) -> Self {
        Self {
            rules: rules.iter().map(|text| text.parse().unwrap()).collect(),
            ..Self::deny_all()
        }
    }

    pub fn check_host(&self, host: &Domain, port: Option<u16>) -> Verdict {
        self.check(|rule| rule.allows_host(host, port), self.open)
    }

    pub fn check_address(&self, address: IpAddr, port: Option<u16>) -> Verdict {
        // No rule opens IPv6.
        if address.is_ipv6() {
            return Verdict::Denied;
        }
        let open = self.open && !self.is_closed(address);
        self.check(|rule| rule.allows_address(address, port), open)
    }

    /// Whether an address is closed to the mode and to rules for names.
    pub fn is_closed(&self, address: IpAddr) -> bool {
        is_closed(address, self.lan)
    }

    fn check(&self, allows: impl Fn(&Rule) -> bool, open: bool) -> Verdict {
        match self.rules.iter().find(|rule| allows(rule)) {
            Some(rule) => Verdict::Allowed {
                by: Some(rule.clone()),
            },
            None if open => Verdict::Allowed { by: None },
            None => Verdict::Denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::presets::presets;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn record_roundtrips_and_invalid_record_fails() {
        let mut policy = Policy::new(Mode::Agent, [rule("a.example"), rule("a.example")]);
        assert_eq!(policy.allow.len(), 1);
        policy.deny.push(rule("b.example"));
        let record = policy.to_record();
        assert_eq!(Policy::from_record(Some(&record)), Ok(policy));
        let open = Policy::from_record(None).unwrap();
        assert_eq!(open.mode, Mode::Unrestricted);
        for invalid in [
            "",
            "{}",
            "unrestricted",
            r#"{"version":2,"mode":"agent"}"#,
            r#"{"version":1,"mode":"open"}"#,
            r#"{"version":1,"mode":"allowlist","allow":["a;b"]}"#,
        ] {
            assert!(Policy::from_record(Some(invalid)).is_err(), "{invalid}");
        }
        let newer = r#"{"version":1,"mode":"allowlist","later":true}"#;
        assert!(Policy::from_record(Some(newer)).is_ok());
    }

    #[test]
    fn preset_rules_can_be_denied_and_allowed_again() {
        let presets = presets();
        let preset_rule = presets.rules(false).next().unwrap().clone();
        let mut policy = Policy::new(Mode::Agent, []);
        policy.deny(preset_rule.clone(), presets).unwrap();
        assert!(!policy.rules_in_force(presets).contains(&preset_rule));
        assert_eq!(policy.deny, std::slice::from_ref(&preset_rule));
        assert!(matches!(
            policy.deny(preset_rule.clone(), presets),
            Err(ChangeError::NotInPolicy { .. })
        ));
        assert_eq!(policy.allow(preset_rule.clone(), presets), Ok(true));
        assert_eq!(policy.allow(preset_rule.clone(), presets), Ok(false));
        assert_eq!(policy, Policy::new(Mode::Agent, []));
    }

    #[test]
    fn added_rules_can_be_removed() {
        let presets = presets();
        let mut policy = Policy::new(Mode::Allowlist, []);
        assert_eq!(policy.allow(rule("a.example:443"), presets), Ok(true));
        let error = policy.deny(rule("a.example"), presets).unwrap_err();
        assert!(
            error.to_string().contains("which has a.example:443"),
            "{error}"
        );
        policy.deny(rule("a.example:443"), presets).unwrap();
        assert!(policy.rules_in_force(presets).is_empty());
        let mut open = Policy::new(Mode::Unrestricted, []);
        assert!(open.allow(rule("a.example"), presets).is_err());
        assert!(open.deny(rule("a.example"), presets).is_err());
        assert_eq!(open.allow(rule("10.1.2.3:22"), presets), Ok(true));
    }
}
