//! One thing a policy allows: a host, all hosts below one, or a network, each
//! on one port or on all.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::cidr::Cidr;

/// The longest name DNS can carry, and the longest label in one.
const NAME: usize = 253;
const LABEL: usize = 63;

/// A host name as DNS has it: lower case, punycode, no final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// This name and no other.
    Host(Domain),
    /// Every name below it, and not itself: `*.example.org`.
    Subdomains(Domain),
    Net(Cidr),
}

/// The text form is canonical and reads back as the same entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    pub target: Target,
    /// `None`: all of TCP and UDP, and ping.
    pub port: Option<u16>,
}

/// Why something is no entry. The message names the text and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}")]
pub struct InvalidRule {
    pub text: String,
    pub reason: String,
}

impl Domain {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `other` or a name below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0
            .strip_suffix(&other.0)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err("names no host".into());
        }
        if name.contains('*') {
            return Err("has a * that is not its first label: only *.NAME is possible".into());
        }
        check_host_characters(name)?;
        let name = idna::domain_to_ascii(name)
            .map_err(|_| "is no host name: its letters cannot be written in DNS".to_owned())?;
        // Among the letters it has another form for are full-width commas and slashes.
        check_host_characters(&name)?;
        if name.len() > NAME {
            return Err(format!("is longer than {NAME} characters"));
        }
        for label in name.split('.') {
            let fault = match label {
                "" => "has an empty label between two dots",
                _ if label.len() > LABEL => "has a label longer than 63 characters",
                _ if label.starts_with('-') || label.ends_with('-') => {
                    "has a label that begins or ends with -"
                }
                _ => continue,
            };
            return Err(fault.into());
        }
        // As an address it would never be asked of a resolver.
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

/// Of the ASCII characters, only those that host names have.
fn check_host_characters(text: &str) -> Result<(), String> {
    let foreign = |c: &char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._".contains(*c);
    match text.chars().find(foreign) {
        Some(bad) => Err(format!("has {bad:?} in it, which no host name has")),
        None => Ok(()),
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Rule {
    /// Whether it lets a connection to this name and port through.
    pub fn admits_host(&self, host: &Domain, port: Option<u16>) -> bool {
        let named = match &self.target {
            Target::Host(name) => host == name,
            Target::Subdomains(below) => host != below && host.is_within(below),
            Target::Net(_) => false,
        };
        named && self.admits_port(port)
    }

    /// Whether it lets a connection to this address through by the address alone.
    pub fn admits_address(&self, address: IpAddr, port: Option<u16>) -> bool {
        matches!(&self.target, Target::Net(net) if net.contains(address)) && self.admits_port(port)
    }

    fn admits_port(&self, port: Option<u16>) -> bool {
        self.port.is_none() || self.port == port
    }

    /// Whether everything `other` lets through is let through by this too.
    pub fn covers(&self, other: &Self) -> bool {
        let port = self.port.is_none() || self.port == other.port;
        port && match (&self.target, &other.target) {
            (Target::Subdomains(below), Target::Host(name)) => {
                name != below && name.is_within(below)
            }
            (Target::Subdomains(below), Target::Subdomains(lower)) => lower.is_within(below),
            (Target::Net(wide), Target::Net(narrow)) => wide.covers(*narrow),
            (one, other) => one == other,
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
        return Err("is empty: expected a host, *.host, an address or a network".into());
    }
    if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("has {bad:?} in it: give each entry by itself"));
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
        return Err(format!(
            "is a URL, and policies go by host: use {host}{port}"
        ));
    }
    if let Some(entry) = network(text)? {
        return Ok(entry);
    }
    if let Some((host, path)) = text.split_once('/') {
        return Err(
            if path.bytes().all(|b| b.is_ascii_digit()) && !path.is_empty() {
                "is no network: expected one such as 192.0.2.0/24".into()
            } else {
                format!("has a path in it, and policies go by host: use {host}")
            },
        );
    }
    let (host, port) = match text.split_once(':') {
        None => (text, None),
        Some((host, port)) => (host, Some(parse_port(port)?)),
    };
    let target = match host.strip_prefix("*.") {
        Some(below) => Target::Subdomains(Domain::parse(below)?),
        None if host == "*" => {
            return Err("would allow everything: that is the mode unrestricted".into());
        }
        None => Target::Host(Domain::parse(host)?),
    };
    Ok(Rule { target, port })
}

/// `1.2.3.4`, `1.2.3.0/24`, `::1`, `[2001:db8::]/32`, each with `:port`, which
/// an IPv6 one can only have behind brackets.
fn network(text: &str) -> Result<Option<Rule>, String> {
    let entry = |net: Cidr, port| {
        if net.is_everything() {
            return Err("would allow everything: that is the mode unrestricted".to_owned());
        }
        Ok(Some(Rule {
            target: Target::Net(net),
            port,
        }))
    };
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return Err("has a [ and no ]".into());
        };
        let (prefix, port) = match rest.split_once(':') {
            None => (rest, None),
            Some((prefix, port)) => (prefix, Some(parse_port(port)?)),
        };
        let net = format!("{address}{prefix}").parse();
        return entry(net.map_err(|_| "is no IPv6 address".to_owned())?, port);
    }
    if let Ok(net) = text.parse::<Cidr>() {
        return entry(net, None);
    }
    match text.rsplit_once(':') {
        Some((net, port)) => match net.parse::<Cidr>() {
            Ok(net @ Cidr::V4 { .. }) => entry(net, Some(parse_port(port)?)),
            _ => Ok(None),
        },
        None => Ok(None),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port @ 1..) if digits => Ok(port),
        _ => Err(format!("has {text:?} for a port: expected 1 to 65535")),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, self.port) {
            (Target::Host(name), _) => write!(f, "{name}")?,
            (Target::Subdomains(below), _) => write!(f, "*.{below}")?,
            (Target::Net(net @ Cidr::V6 { .. }), Some(_)) => {
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
    fn from(entry: Rule) -> Self {
        entry.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn entries_are_made_canonical_and_read_back() {
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
            let parsed = entry(typed);
            assert_eq!(parsed.to_string(), canonical, "{typed}");
            assert_eq!(entry(canonical), parsed, "{typed}");
        }
    }

    #[test]
    fn what_is_no_entry_says_why() {
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
            ("*.", "names no host"),
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
            ("192.0.2.0/33", "no network"),
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
    fn no_hostile_text_comes_through() {
        let pieces = [
            "a", ".", ";", "\n", "\"", "'", "`", "$", "{", "}", "#", "/", "\\", "*", "-", "\0", "é",
        ];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    let text = format!("x{a}{b}{c}y.example");
                    if let Ok(entry) = text.parse::<Rule>() {
                        let text = entry.to_string();
                        let plain = |c: char| c.is_ascii_alphanumeric() || "-._*:/[]".contains(c);
                        assert!(text.chars().all(plain), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_star_is_for_what_is_below() {
        let domain = |text: &str| Domain::parse(text).unwrap();
        let star = entry("*.example.org:443");
        assert!(star.admits_host(&domain("a.example.org"), Some(443)));
        assert!(star.admits_host(&domain("a.b.example.org"), Some(443)));
        assert!(!star.admits_host(&domain("example.org"), Some(443)));
        assert!(!star.admits_host(&domain("badexample.org"), Some(443)));
        assert!(!star.admits_host(&domain("a.example.org"), Some(80)));
        assert!(entry("*.example.org").covers(&entry("*.a.example.org:1")));
        assert!(entry("*.example.org").covers(&entry("a.example.org")));
        assert!(!entry("*.example.org").covers(&entry("example.org")));
        assert!(entry("10.0.0.0/8").covers(&entry("10.1.0.0/16:22")));
        assert!(!entry("10.0.0.0/8:22").covers(&entry("10.1.0.0/16")));
    }
}
