//! Names of pixels and checkpoints: validated before any request is made.
//!
//! The server-side prefix `px-` lives here and nowhere else. Every command
//! takes `box` or `px-box` and means the same instance.

use std::fmt;
use std::str::FromStr;

/// What every instance of ours is called by on the server.
const PREFIX: &str = "px-";
const MAX_LEN: usize = 60;
/// Kept for the machinery of pixels itself: `px-gateway`, and `px-gateway-…`
/// for further segments, enforce network policies.
const GATEWAY: &str = "gateway";

/// Why a name or label was refused. The message names the value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {value:?}: {rule}")]
pub struct InvalidName {
    pub kind: &'static str,
    pub value: String,
    pub rule: &'static str,
}

/// The bare name of a pixel, such as `box`; on the server it is `px-box`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name without the prefix, as users type and read it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the instance on the server.
    pub fn instance(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// The gateway of the usual segment, or of another one. No pixel of the
    /// user's can have this name, and no listing shows it.
    pub fn gateway(bridge: Option<&str>) -> Self {
        match bridge {
            None => Self(GATEWAY.into()),
            Some(bridge) => Self(format!("{GATEWAY}-{bridge}")),
        }
    }

    /// The pixel an instance on the server stands for; `None` when the
    /// instance is not one of ours.
    pub fn from_instance(instance: &str) -> Option<Self> {
        instance.strip_prefix(PREFIX)?;
        instance.parse().ok()
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let bare = typed.strip_prefix(PREFIX).unwrap_or(typed);
        let refuse = |rule| InvalidName {
            kind: "pixel name",
            value: typed.to_owned(),
            rule,
        };
        check(bare, |c| matches!(c, 'a'..='z' | '0'..='9' | '-')).map_err(|fault| {
            refuse(match fault {
                Fault::Empty => "it is empty",
                Fault::Long => "at most 60 characters are allowed",
                Fault::Dash => "it must not begin or end with a dash",
                Fault::Character => "only a-z, 0-9 and - are allowed",
            })
        })?;
        // As it is shown it would mean another pixel.
        if bare.starts_with(PREFIX) {
            return Err(refuse("px- at its beginning is not part of the name"));
        }
        if bare
            .strip_prefix(GATEWAY)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        {
            return Err(refuse("the name is kept for pixels itself"));
        }
        Ok(Self(bare.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The label of a checkpoint, such as `ready`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Labels of checkpoints that last for one command only.
const TEMPORARY: &str = "px-tmp-";

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A label for the duration of one command; `unique` tells commands apart.
    pub fn temporary(unique: &str) -> Result<Self, InvalidName> {
        format!("{TEMPORARY}{unique}").parse()
    }

    /// What [`Label::temporary`] was given; `None` for a lasting checkpoint.
    pub fn temporary_id(&self) -> Option<&str> {
        self.0.strip_prefix(TEMPORARY)
    }
}

impl FromStr for Label {
    type Err = InvalidName;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        check(
            typed,
            |c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.' | '_'),
        )
        .map_err(|fault| InvalidName {
            kind: "checkpoint label",
            value: typed.to_owned(),
            rule: match fault {
                Fault::Empty => "it is empty",
                Fault::Long => "at most 60 characters are allowed",
                Fault::Dash => "it must not begin or end with a dash",
                Fault::Character => "only a-z, 0-9, -, . and _ are allowed",
            },
        })?;
        if typed.chars().all(|c| c == '.') {
            return Err(InvalidName {
                kind: "checkpoint label",
                value: typed.to_owned(),
                rule: "it must not consist of dots alone",
            });
        }
        Ok(Self(typed.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a clone is made from: `box` (its present state) or `box:ready` (a checkpoint).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSource {
    pub pixel: Name,
    pub label: Option<Label>,
}

impl FromStr for CloneSource {
    type Err = InvalidName;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed.split_once(':') {
            None => Ok(Self {
                pixel: typed.parse()?,
                label: None,
            }),
            Some((pixel, label)) => Ok(Self {
                pixel: pixel.parse()?,
                label: Some(label.parse()?),
            }),
        }
    }
}

impl fmt::Display for CloneSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "{}:{label}", self.pixel),
            None => write!(f, "{}", self.pixel),
        }
    }
}

enum Fault {
    Empty,
    Long,
    Dash,
    Character,
}

fn check(text: &str, allowed: impl Fn(char) -> bool) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(Fault::Empty);
    }
    if !text.chars().all(allowed) {
        return Err(Fault::Character);
    }
    if text.len() > MAX_LEN {
        return Err(Fault::Long);
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(Fault::Dash);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_optional_and_means_the_same() {
        let bare: Name = "base-python".parse().unwrap();
        let full: Name = "px-base-python".parse().unwrap();
        assert_eq!(bare, full);
        assert_eq!(full.instance(), "px-base-python");
        assert_eq!(Name::from_instance("px-base-python"), Some(bare));
        assert_eq!(Name::from_instance("other"), None);
    }

    #[test]
    fn bad_names_are_refused_with_value_and_rule() {
        for (bad, rule) in [
            ("", "empty"),
            ("px-", "empty"),
            ("Box", "a-z"),
            ("a b", "a-z"),
            ("a/b", "a-z"),
            ("-a", "dash"),
            ("a-", "dash"),
            ("ä", "a-z"),
            ("../x", "a-z"),
            ("gateway", "kept"),
            ("px-gateway", "kept"),
            ("px-px-a", "not part"),
            (&"a".repeat(61), "60"),
        ] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains(rule), "{bad:?}: {error}");
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        assert!("a".repeat(60).parse::<Name>().is_ok());
    }

    #[test]
    fn labels_allow_dots_and_underscores() {
        assert!("px-20261123-140000".parse::<Label>().is_ok());
        assert!("v1.0_rc".parse::<Label>().is_ok());
        for bad in ["", "a/b", "a b", "..", "x:y", "-x"] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
    }

    #[test]
    fn origin_splits_at_the_first_colon_and_refuses_empty_halves() {
        let origin: CloneSource = "px-a:ready".parse().unwrap();
        assert_eq!(origin.to_string(), "a:ready");
        assert_eq!("a".parse::<CloneSource>().unwrap().label, None);
        for bad in ["a:", ":b", "a:b:c", ""] {
            assert!(bad.parse::<CloneSource>().is_err(), "{bad}");
        }
    }
}
