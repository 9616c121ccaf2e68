//! What a pixel may reach: a mode, what the user allows on top of it, and
//! what the user takes away from the preset.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::presets::Presets;
use super::rule::{Domain, Rule, Target};

/// The property that holds a pixel's policy.
pub const KEY: &str = "egress";
/// In place of [`KEY`]'s while the pixel is being provisioned.
pub const INTERIM: &str = "egress-interim";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The internet; not the host, its other pixels, or the networks around it.
    Unrestricted,
    /// The preset, and what is allowed on top.
    Agent,
    /// Only what is allowed.
    Allowlist,
}

impl Mode {
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
    /// In the order they were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Rule>,
    /// Of the preset's, those that are not to be allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Rule>,
    /// Private networks too, in the mode unrestricted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lan: bool,
    /// The preset's wide address ranges too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preset_cidrs: bool,
}

/// Why a change of a policy makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("the policy is unrestricted, which allows {0} already")]
    Unrestricted(Rule),
    #[error("the policy is unrestricted: nothing can be taken from it")]
    NothingToDeny,
    #[error("{entry} is not in the policy{}", did_you_mean(.nearest))]
    NotThere { entry: Rule, nearest: Option<Rule> },
}

fn did_you_mean(nearest: &Option<Rule>) -> String {
    nearest
        .as_ref()
        .map(|entry| format!(", which has {entry}"))
        .unwrap_or_default()
}

/// The record of a policy cannot be read: nothing may be assumed of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy on record cannot be read: {0}")]
pub struct Unreadable(String);

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
        for entry in allow {
            if !policy.allow.contains(&entry) {
                policy.allow.push(entry);
            }
        }
        policy
    }

    /// The same in another mode. Of what is allowed on top, names are left
    /// out where every name is allowed anyway.
    pub fn in_mode(&self, mode: Mode) -> Self {
        let mut policy = self.clone();
        policy.mode = mode;
        if mode == Mode::Unrestricted {
            policy
                .allow
                .retain(|entry| matches!(entry.target, Target::Net(_)));
        }
        policy
    }

    /// The text that goes on record.
    pub fn to_record(&self) -> String {
        let stored = Stored {
            version: VERSION,
            policy: self.clone(),
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Of a text on record. A pixel without one has the mode unrestricted.
    pub fn from_record(text: Option<&str>) -> Result<Self, Unreadable> {
        let Some(text) = text else {
            return Ok(Self::new(Mode::Unrestricted, []));
        };
        let stored: Stored = serde_json::from_str(text).map_err(|e| Unreadable(e.to_string()))?;
        if stored.version != VERSION {
            return Err(Unreadable(format!(
                "it is of version {}, made by another version of pixels",
                stored.version
            )));
        }
        Ok(stored.policy)
    }

    /// Adds an entry; false when it is allowed already.
    pub fn allow(&mut self, entry: Rule, presets: &Presets) -> Result<bool, ChangeError> {
        // An entry opens a private network also where the rest is open.
        let opens_lan = matches!(entry.target, Target::Net(_));
        if self.mode == Mode::Unrestricted && !opens_lan {
            return Err(ChangeError::Unrestricted(entry));
        }
        let before = self.deny.len();
        self.deny.retain(|denied| *denied != entry);
        let restored = self.deny.len() != before;
        let there = self.rules_in_force(presets).contains(&entry);
        if !there {
            self.allow.push(entry);
        }
        Ok(restored || !there)
    }

    /// Takes an entry away, the preset's too.
    pub fn deny(&mut self, entry: Rule, presets: &Presets) -> Result<(), ChangeError> {
        if self.mode == Mode::Unrestricted && !self.allow.contains(&entry) {
            return Err(ChangeError::NothingToDeny);
        }
        let in_force = self.rules_in_force(presets);
        if !in_force.contains(&entry) {
            let nearest = nearest(&entry, &in_force);
            return Err(ChangeError::NotThere { entry, nearest });
        }
        self.allow.retain(|allowed| *allowed != entry);
        if self.mode == Mode::Agent
            && presets
                .entries(self.preset_cidrs)
                .any(|preset| *preset == entry)
        {
            self.deny.push(entry);
        }
        Ok(())
    }

    /// Everything that is allowed by name or address, sorted.
    pub fn rules_in_force(&self, presets: &Presets) -> BTreeSet<Rule> {
        let mut entries: BTreeSet<Rule> = self.allow.iter().cloned().collect();
        if self.mode == Mode::Agent {
            let preset = presets.entries(self.preset_cidrs);
            entries.extend(preset.filter(|entry| !self.deny.contains(entry)).cloned());
        }
        entries
    }

    pub fn resolve(&self, presets: &Presets) -> ResolvedPolicy {
        ResolvedPolicy {
            open: self.mode == Mode::Unrestricted,
            lan: self.lan,
            entries: self.rules_in_force(presets),
        }
    }
}

/// The nearest in meaning, then in spelling.
fn nearest(entry: &Rule, among: &BTreeSet<Rule>) -> Option<Rule> {
    let wider = among
        .iter()
        .find(|other| other.covers(entry) || entry.covers(other));
    let text = entry.to_string();
    let alike = || {
        among
            .iter()
            .map(|other| {
                (
                    strsim::normalized_damerau_levenshtein(&text, &other.to_string()),
                    other,
                )
            })
            .filter(|(likeness, _)| *likeness > 0.6)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, other)| other)
    };
    wider.or_else(alike).cloned()
}

/// A policy taken apart into what is enforced. Two policies that allow the
/// same have equal ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolvedPolicy {
    /// Everything that is not private.
    pub open: bool,
    /// What is private as well; only of one that is open.
    pub lan: bool,
    pub entries: BTreeSet<Rule>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allowed {
        /// `None`: because everything is.
        by: Option<Rule>,
    },
    Refused,
}

impl ResolvedPolicy {
    /// Nothing at all.
    pub fn deny_all() -> Self {
        Self {
            open: false,
            lan: false,
            entries: BTreeSet::new(),
        }
    }

    pub fn check_host(&self, host: &Domain, port: Option<u16>) -> Verdict {
        match self
            .entries
            .iter()
            .find(|entry| entry.admits_host(host, port))
        {
            Some(entry) => Verdict::Allowed {
                by: Some(entry.clone()),
            },
            None if self.open => Verdict::Allowed { by: None },
            None => Verdict::Refused,
        }
    }

    pub fn check_address(&self, address: IpAddr, port: Option<u16>) -> Verdict {
        match self
            .entries
            .iter()
            .find(|entry| entry.admits_address(address, port))
        {
            Some(entry) => Verdict::Allowed {
                by: Some(entry.clone()),
            },
            None if self.open && (self.lan || !super::render::is_private(address)) => {
                Verdict::Allowed { by: None }
            }
            None => Verdict::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::presets::presets;

    fn entry(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn a_record_reads_back_and_a_broken_one_is_an_error() {
        let mut policy = Policy::new(Mode::Agent, [entry("a.example"), entry("a.example")]);
        assert_eq!(policy.allow.len(), 1);
        policy.deny.push(entry("b.example"));
        let record = policy.to_record();
        assert_eq!(Policy::from_record(Some(&record)), Ok(policy));
        let open = Policy::from_record(None).unwrap();
        assert_eq!(open.mode, Mode::Unrestricted);
        for broken in [
            "",
            "{}",
            "unrestricted",
            r#"{"version":2,"mode":"agent"}"#,
            r#"{"version":1,"mode":"open"}"#,
            r#"{"version":1,"mode":"allowlist","allow":["a;b"]}"#,
        ] {
            assert!(Policy::from_record(Some(broken)).is_err(), "{broken}");
        }
        let newer = r#"{"version":1,"mode":"allowlist","later":true}"#;
        assert!(Policy::from_record(Some(newer)).is_ok());
    }

    #[test]
    fn entries_of_the_preset_are_taken_away_and_given_back() {
        let presets = presets();
        let of_preset = presets.entries(false).next().unwrap().clone();
        let mut policy = Policy::new(Mode::Agent, []);
        policy.deny(of_preset.clone(), presets).unwrap();
        assert!(!policy.rules_in_force(presets).contains(&of_preset));
        assert_eq!(policy.deny, std::slice::from_ref(&of_preset));
        assert!(matches!(
            policy.deny(of_preset.clone(), presets),
            Err(ChangeError::NotThere { .. })
        ));
        assert_eq!(policy.allow(of_preset.clone(), presets), Ok(true));
        assert_eq!(policy.allow(of_preset.clone(), presets), Ok(false));
        assert_eq!(policy, Policy::new(Mode::Agent, []));
    }

    #[test]
    fn own_entries_come_and_go() {
        let presets = presets();
        let mut policy = Policy::new(Mode::Allowlist, []);
        assert_eq!(policy.allow(entry("a.example:443"), presets), Ok(true));
        let error = policy.deny(entry("a.example"), presets).unwrap_err();
        assert!(
            error.to_string().contains("which has a.example:443"),
            "{error}"
        );
        policy.deny(entry("a.example:443"), presets).unwrap();
        assert!(policy.rules_in_force(presets).is_empty());
        let mut open = Policy::new(Mode::Unrestricted, []);
        assert!(open.allow(entry("a.example"), presets).is_err());
        assert!(open.deny(entry("a.example"), presets).is_err());
        assert_eq!(open.allow(entry("10.1.2.3:22"), presets), Ok(true));
    }
}
