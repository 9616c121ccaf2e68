//! Host names.

use std::fmt;

/// DNS limits in characters.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host name as used in DNS: lower case, Punycode, no final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

impl Domain {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name is `other` or a subdomain of `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0
            .strip_suffix(&other.0)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Parses a host name. The error text reads after a subject, such as the
    /// quoted input.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err("has no host name".into());
        }
        if name.contains('*') {
            return Err("has a * that is not its first label: only *.NAME is possible".into());
        }
        check_characters(name)?;
        let name = idna::domain_to_ascii(name)
            .map_err(|_| "is not a host name: cannot encode its letters for DNS".to_owned())?;
        // Check again: IDNA maps full-width commas and slashes to ASCII.
        check_characters(&name)?;
        if name.len() > MAX_NAME {
            return Err(format!("is longer than {MAX_NAME} characters"));
        }
        for label in name.split('.') {
            let reason = match label {
                "" => "has an empty label between two dots".to_owned(),
                _ if label.len() > MAX_LABEL => {
                    format!("has a label longer than {MAX_LABEL} characters")
                }
                _ if label.starts_with('-') || label.ends_with('-') => {
                    "has a label that begins or ends with -".to_owned()
                }
                _ => continue,
            };
            return Err(reason);
        }
        // Programs treat such a name as an address and do not resolve it.
        if name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err("is neither an IPv4 address nor a host name".into());
        }
        Ok(Self(name))
    }
}

/// Rejects ASCII characters that are not valid in a host name.
fn check_characters(text: &str) -> Result<(), String> {
    let invalid = |c: &char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._".contains(*c);
    match text.chars().find(invalid) {
        Some(c) => Err(format!("contains {c:?}, which is not valid in a host name")),
        None => Ok(()),
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
