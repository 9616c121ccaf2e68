//! Names of pixels and labels of checkpoints, validated before any request.
//!
//! Only this module knows the prefix `px-` of instance names on the server.
//! Every command accepts `box` and `px-box` for the same instance.

use std::fmt;
use std::str::FromStr;

/// Prefix of the pixels' instance names on the server.
const PREFIX: &str = "px-";
const MAX_LEN: usize = 60;
/// A reserved name: `px-gateway` is the default gateway, and
/// `px-gateway-BRIDGE` is the gateway of another isolated bridge.
const GATEWAY: &str = "gateway";

/// An invalid name or label. The message contains the value and the violated rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {value:?}: {rule}")]
pub struct InvalidName {
    pub kind: &'static str,
    pub value: String,
    pub rule: &'static str,
}

/// The bare name of a pixel, such as `box`. The instance name is `px-box`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Returns the bare name, as users enter it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the instance on the server.
    pub fn instance(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// Returns the gateway's name for `bridge`, or for the default isolated bridge.
    /// Users cannot give a pixel this name, and lists do not contain gateways.
    pub fn gateway(bridge: Option<&str>) -> Self {
        match bridge {
            None => Self(GATEWAY.into()),
            Some(bridge) => Self(format!("{GATEWAY}-{bridge}")),
        }
    }

    /// Returns the pixel's name for an instance name. `None` if the instance is not
    /// a pixel.
    pub fn from_instance(instance: &str) -> Option<Self> {
        instance.strip_prefix(PREFIX)?;
        instance.parse().ok()
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix(PREFIX).unwrap_or(text);
        let is_allowed = |c| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let reserved = bare.strip_prefix(GATEWAY);
        let rule = match check(bare, is_allowed, "only a-z, 0-9 and - are allowed") {
            Err(rule) => rule,
            // The name without the prefix would identify a different pixel.
            Ok(()) if bare.starts_with(PREFIX) => "it must not begin with px-px-",
            Ok(()) if reserved.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) => {
                "it is reserved"
            }
            Ok(()) => return Ok(Self(bare.to_owned())),
        };
        Err(InvalidName {
            kind: "pixel name",
            value: text.to_owned(),
            rule,
        })
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

/// Prefix of the labels of temporary checkpoints.
const TEMPORARY: &str = "px-tmp-";

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the label of a checkpoint that exists only during one command.
    /// `unique` identifies the command.
    pub fn temporary(unique: &str) -> Result<Self, InvalidName> {
        format!("{TEMPORARY}{unique}").parse()
    }

    /// Returns the `unique` part of a [`Label::temporary`], or `None` for other labels.
    pub fn temporary_id(&self) -> Option<&str> {
        self.0.strip_prefix(TEMPORARY)
    }
}

impl FromStr for Label {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed = |c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.' | '_');
        let rule = match check(text, is_allowed, "only a-z, 0-9, -, . and _ are allowed") {
            Err(rule) => rule,
            Ok(()) if text.chars().all(|c| c == '.') => "it must not consist of dots only",
            Ok(()) => return Ok(Self(text.to_owned())),
        };
        Err(InvalidName {
            kind: "checkpoint label",
            value: text.to_owned(),
            rule,
        })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The source of a clone: a pixel (`box`) or a checkpoint (`box:ready`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSource {
    pub pixel: Name,
    pub label: Option<Label>,
}

impl FromStr for CloneSource {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pixel, label) = match text.split_once(':') {
            None => (text, None),
            Some((pixel, label)) => (pixel, Some(label)),
        };
        Ok(Self {
            pixel: pixel.parse()?,
            label: label.map(str::parse).transpose()?,
        })
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

/// Checks the rules that names and labels share. The error is the violated
/// rule. `characters` is the rule for allowed characters.
fn check(
    text: &str,
    is_allowed: impl Fn(char) -> bool,
    characters: &'static str,
) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if !text.chars().all(is_allowed) {
        return Err(characters);
    }
    if text.len() > MAX_LEN {
        return Err("at most 60 characters are allowed");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("it must not begin or end with a dash");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_prefix_is_optional() {
        let bare: Name = "base-python".parse().unwrap();
        let full: Name = "px-base-python".parse().unwrap();
        assert_eq!(bare, full);
        assert_eq!(full.instance(), "px-base-python");
        assert_eq!(Name::from_instance("px-base-python"), Some(bare));
        assert_eq!(Name::from_instance("other"), None);
    }

    #[test]
    fn invalid_name_reports_value_and_rule() {
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
            ("gateway", "reserved"),
            ("px-gateway", "reserved"),
            ("px-px-a", "px-px-"),
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
    fn clone_source_splits_at_the_first_colon() {
        let source: CloneSource = "px-a:ready".parse().unwrap();
        assert_eq!(source.to_string(), "a:ready");
        assert_eq!("a".parse::<CloneSource>().unwrap().label, None);
        for bad in ["a:", ":b", "a:b:c", ""] {
            assert!(bad.parse::<CloneSource>().is_err(), "{bad}");
        }
    }
}
