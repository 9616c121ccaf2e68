//! One allowed destination of a policy: a host, all subdomains of a host, or a
//! network, on one port or on all ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::cidr::Cidr;
use super::domain::Domain;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Exactly this host name.
    Host(Domain),
    /// All subdomains of this name, but not the name itself: `*.example.org`.
    Subdomains(Domain),
    Net(Cidr),
}

/// A rule. Its text form can be parsed again and results in an equal rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    pub target: Target,
    /// `None` means all TCP and UDP ports, and ping.
    pub port: Option<u16>,
}

/// An invalid rule. The message quotes the text and suggests a valid rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}")]
pub struct InvalidRule {
    pub text: String,
    pub reason: String,
}

impl Rule {
    /// The host name, or the parent of the subdomains. `None` for networks.
    pub(super) fn name(&self) -> Option<&Domain> {
        match &self.target {
            Target::Host(name) | Target::Subdomains(name) => Some(name),
            Target::Net(_) => None,
        }
    }

    /// Whether the rule allows connections to this host name and port.
    pub fn allows_host(&self, host: &Domain, port: Option<u16>) -> bool {
        let matches = match &self.target {
            Target::Host(name) => host == name,
            Target::Subdomains(parent) => host != parent && host.is_within(parent),
            Target::Net(_) => false,
        };
        matches && self.allows_port(port)
    }

    /// Whether this is a rule for a network with this address and port.
    pub fn allows_address(&self, address: IpAddr, port: Option<u16>) -> bool {
        matches!(&self.target, Target::Net(net) if net.contains(address)) && self.allows_port(port)
    }

    pub(super) fn allows_port(&self, port: Option<u16>) -> bool {
        self.port.is_none() || self.port == port
    }

    /// Whether this rule allows all destinations that `other` allows.
    pub fn covers(&self, other: &Self) -> bool {
        let port = self.port.is_none() || self.port == other.port;
        port && match (&self.target, &other.target) {
            (Target::Subdomains(parent), Target::Host(name)) => {
                name != parent && name.is_within(parent)
            }
            (Target::Subdomains(parent), Target::Subdomains(child)) => child.is_within(parent),
            (Target::Net(wide), Target::Net(narrow)) => wide.covers(*narrow),
            (target, other) => target == other,
        }
    }
}

impl FromStr for Rule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        parse(text.trim()).map_err(|reason| InvalidRule {
            text: text.chars().take(80).collect(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Rule, String> {
    if text.is_empty() {
        return Err("is empty: expected HOST, *.HOST, an address or a network".into());
    }
    if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "contains {c:?}: pass each rule as its own argument"
        ));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = host.rsplit('@').next().unwrap_or(host);
        let port = match scheme {
            _ if host.contains(':') => "",
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        return Err(format!("is a URL, but a rule is a host: use {host}{port}"));
    }
    if let Some(rule) = parse_network(text)? {
        return Ok(rule);
    }
    if let Some((host, path)) = text.split_once('/') {
        return Err(
            if path.bytes().all(|b| b.is_ascii_digit()) && !path.is_empty() {
                "is not a network: expected one such as 192.0.2.0/24".into()
            } else {
                format!("contains a path, but a rule is a host: use {host}")
            },
        );
    }
    let (host, port) = match text.split_once(':') {
        None => (text, None),
        Some((host, port)) => (host, Some(parse_port(port)?)),
    };
    let target = match host.strip_prefix("*.") {
        Some(parent) => Target::Subdomains(Domain::parse(parent)?),
        None if host == "*" => return Err(EVERYTHING.into()),
        None => Target::Host(Domain::parse(host)?),
    };
    Ok(Rule { target, port })
}

const EVERYTHING: &str = "would allow everything: use the mode unrestricted";

/// Parses `1.2.3.4`, `1.2.3.0/24`, `::1` and `[2001:db8::]/32`, optionally with
/// `:PORT`. IPv6 addresses with a port need brackets. Returns `None` if the
/// text is not an address.
fn parse_network(text: &str) -> Result<Option<Rule>, String> {
    let rule = |net: Cidr, port| {
        if net.is_everything() {
            return Err(EVERYTHING.to_owned());
        }
        Ok(Some(Rule {
            target: Target::Net(net),
            port,
        }))
    };
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return Err("has a [ but no ]".into());
        };
        let (prefix, port) = match rest.split_once(':') {
            None => (rest, None),
            Some((prefix, port)) => (prefix, Some(parse_port(port)?)),
        };
        let net = format!("{address}{prefix}").parse();
        return rule(net.map_err(|_| "is not an IPv6 address".to_owned())?, port);
    }
    if let Ok(net) = text.parse::<Cidr>() {
        return rule(net, None);
    }
    match text.rsplit_once(':') {
        Some((net, port)) => match net.parse::<Cidr>() {
            Ok(net) if net.is_v4() => rule(net, Some(parse_port(port)?)),
            _ => Ok(None),
        },
        None => Ok(None),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port @ 1..) if digits => Ok(port),
        _ => Err(format!("has the port {text:?}: expected 1 to 65535")),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, self.port) {
            (Target::Host(name), _) => write!(f, "{name}")?,
            (Target::Subdomains(parent), _) => write!(f, "*.{parent}")?,
            (Target::Net(net), Some(_)) if !net.is_v4() => {
                let text = net.to_string();
                match text.split_once('/') {
                    Some((address, prefix)) => write!(f, "[{address}]/{prefix}")?,
                    None => write!(f, "[{text}]")?,
                }
            }
            (Target::Net(net), _) => write!(f, "{net}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = InvalidRule;

    fn try_from(text: String) -> Result<Self, InvalidRule> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn rules_have_canonical_form() {
        for (typed, canonical) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            (" example.org ", "example.org"),
            ("example.org:443", "example.org:443"),
            ("*.Example.org", "*.example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("192.0.2.0/24:22", "192.0.2.0/24:22"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[2001:db8::]/32:443", "[2001:db8::]/32:443"),
            ("_sip.example.org", "_sip.example.org"),
        ] {
            let parsed = rule(typed);
            assert_eq!(parsed.to_string(), canonical, "{typed}");
            assert_eq!(rule(canonical), parsed, "{typed}");
        }
    }

    #[test]
    fn invalid_rules_explain() {
        let label = "a".repeat(64);
        let name = format!("{}.example", "abcdefg.".repeat(40));
        for (text, reason) in [
            ("", "empty"),
            ("https://example.org/x?y", "use example.org:443"),
            ("http://example.org", "use example.org:80"),
            ("https://me@example.org:8443/", "use example.org:8443"),
            ("ssh://git@example.org", "use example.org"),
            ("example.org/path", "use example.org"),
            ("a.*.example.org", "only *.NAME"),
            ("**.example.org", "only *.NAME"),
            ("*", "unrestricted"),
            ("*.", "no host name"),
            ("0.0.0.0/0", "unrestricted"),
            ("::/0", "unrestricted"),
            ("-x", "begins or ends with -"),
            ("a-.example", "begins or ends with -"),
            ("a..b", "empty label"),
            (".example.org", "empty label"),
            ("a;b", "';'"),
            ("a'b", "'\\''"),
            ("a\"b", "'\"'"),
            ("a$(id)", "'$'"),
            ("a/b;c", "use a"),
            ("a b", "' '"),
            ("a\nb", "'\\n'"),
            ("example.org:0", "port"),
            ("example.org:65536", "port"),
            ("example.org:+1", "port"),
            ("example.org:https", "port"),
            ("example.org:", "port"),
            ("a\u{ff0f}b.example", "'/'"),
            ("a\u{ff03}1.example", "'#'"),
            ("a\u{ff1b}b.example", "';'"),
            ("192.0.2.300", "neither"),
            ("192.0.2.0/33", "not a network"),
            ("1.2.3", "neither"),
            ("[::1", "no ]"),
            (&label, "63"),
            (&name, "253"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn canonical_form_has_no_special_characters() {
        let pieces = [
            "a", ".", ";", "\n", "\"", "'", "`", "$", "{", "}", "#", "/", "\\", "*", "-", "\0", "é",
        ];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    let text = format!("x{a}{b}{c}y.example");
                    if let Ok(rule) = text.parse::<Rule>() {
                        let text = rule.to_string();
                        let plain = |c: char| c.is_ascii_alphanumeric() || "-._*:/[]".contains(c);
                        assert!(text.chars().all(plain), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn wildcard_excludes_apex() {
        let domain = |text: &str| Domain::parse(text).unwrap();
        let wildcard = rule("*.example.org:443");
        assert!(wildcard.allows_host(&domain("a.example.org"), Some(443)));
        assert!(wildcard.allows_host(&domain("a.b.example.org"), Some(443)));
        assert!(!wildcard.allows_host(&domain("example.org"), Some(443)));
        assert!(!wildcard.allows_host(&domain("badexample.org"), Some(443)));
        assert!(!wildcard.allows_host(&domain("a.example.org"), Some(80)));
        assert!(rule("*.example.org").covers(&rule("*.a.example.org:1")));
        assert!(rule("*.example.org").covers(&rule("a.example.org")));
        assert!(!rule("*.example.org").covers(&rule("example.org")));
        assert!(rule("10.0.0.0/8").covers(&rule("10.1.0.0/16:22")));
        assert!(!rule("10.0.0.0/8:22").covers(&rule("10.1.0.0/16")));
    }
}
