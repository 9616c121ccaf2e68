//! What a key takes: how a variable's text is read, which values are admitted,
//! and how that is said.

use toml::Value;

use super::duration;
use crate::model::{Name, parse_cpus};

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text that is not empty.
    Text,
    /// A text; empty is unset.
    OptionalText,
    /// A count or a set of CPUs, or empty for unset.
    Cpus,
    /// How names of pixels begin; may be empty.
    NamePrefix,
    /// A path, in which `~/` is expanded unless a flag gave it; empty is unset.
    Path,
    Bool,
    /// A whole number from `least` to `max`, or 0.
    Integer {
        least: i64,
        max: i64,
        unit: &'static str,
    },
    /// Texts that are not empty and have no comma or space in them.
    List,
    /// A duration above zero.
    Duration,
    Choice(&'static [&'static str]),
    /// One of these, or empty for unset.
    OptionalChoice(&'static [&'static str]),
    /// `host:port`.
    Address,
    /// A path of a URL.
    Route,
    /// The name of a network interface, as Linux takes it.
    Interface,
    /// An IPv4 network of 8 to 29 bits; empty is unset.
    Subnet,
    /// An `http` or `https` URL.
    Url,
    /// The table `[env]`, merged entry by entry.
    Env,
    /// The table `[mcp.bases]`, merged entry by entry.
    Bases,
}

impl Kind {
    /// The value a variable's text stands for; `None` when it cannot be one.
    pub(super) fn parse(self, text: &str) -> Option<Value> {
        match self {
            Self::Bool => match text {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true.into()),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false.into()),
                _ => None,
            },
            Self::Integer { .. } => text.parse::<i64>().ok().map(Value::from),
            Self::List | Self::Env | Self::Bases => None,
            _ => Some(text.into()),
        }
    }

    pub(super) fn admits(self, value: &Value) -> bool {
        match self {
            Self::Bool => value.is_bool(),
            Self::Integer { least, max, .. } => {
                let number = value.as_integer();
                number.is_some_and(|number| number == 0 || (least..=max).contains(&number))
            }
            Self::List => value.as_array().is_some_and(|items| {
                let sound = |item: &str| {
                    !item.is_empty() && !item.contains(|c: char| c == ',' || c.is_whitespace())
                };
                items.iter().all(|item| item.as_str().is_some_and(sound))
            }),
            Self::Env | Self::Bases => value.is_table(),
            _ => value.as_str().is_some_and(|text| self.admits_text(text)),
        }
    }

    fn admits_text(self, text: &str) -> bool {
        // Ends a C string, which all of these become somewhere.
        if text.contains('\0') {
            return false;
        }
        match self {
            Self::Text => !text.is_empty(),
            Self::Cpus => text.is_empty() || parse_cpus(text).is_ok(),
            Self::NamePrefix => format!("{text}a").parse::<Name>().is_ok(),
            Self::Duration => duration::parse(text).is_some(),
            Self::Choice(names) => names.contains(&text),
            Self::OptionalChoice(names) => text.is_empty() || names.contains(&text),
            Self::Address => text.rsplit_once(':').is_some_and(|(host, port)| {
                let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
                let sound = match bare {
                    Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                    None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']),
                };
                sound && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
            }),
            Self::Route => {
                text.starts_with('/') && !text.contains(|c: char| "?#".contains(c) || c <= ' ')
            }
            Self::Interface => {
                (2..=15).contains(&text.len())
                    && text.starts_with(|c: char| c.is_ascii_lowercase())
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !text.ends_with('-')
            }
            Self::Subnet => {
                let sound = |(address, prefix): (&str, &str)| {
                    address.parse::<std::net::Ipv4Addr>().is_ok()
                        && prefix
                            .parse()
                            .is_ok_and(|bits: u8| (8..=29).contains(&bits))
                };
                text.is_empty() || text.split_once('/').is_some_and(sound)
            }
            Self::Url => url::Url::parse(text)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()),
            _ => true,
        }
    }

    /// What is admitted, to follow "must be".
    pub(super) fn allowed(self) -> String {
        match self {
            Self::Text => "a text that is not empty".into(),
            Self::Cpus => {
                "a text with a count such as \"2\" or a set such as \"0-3\" (\"\" for unset)".into()
            }
            Self::OptionalText => "a text (\"\" for unset)".into(),
            Self::NamePrefix => {
                "the beginning of a pixel's name: a-z, 0-9 and -, not first a -".into()
            }
            Self::Path => "a path as a text (\"\" for unset)".into(),
            Self::Bool => "true or false".into(),
            Self::Integer {
                least: 0,
                max,
                unit,
            } => format!("a whole number{unit} from 0 to {max}"),
            Self::Integer { least, max, unit } => {
                format!("a whole number{unit} from {least} to {max}, or 0")
            }
            Self::List => "a list of texts, each without commas and spaces".into(),
            Self::Duration => "a duration above zero, such as \"90s\" or \"1h30m\"".into(),
            Self::Interface => {
                "the name of a network interface: 2 to 15 of a-z, 0-9 and -, first a letter".into()
            }
            Self::Subnet => {
                "an IPv4 network of 8 to 29 bits, such as 10.98.0.0/16 (\"\" for unset)".into()
            }
            Self::Choice(names) => one_of(names),
            Self::OptionalChoice(names) => format!("{} (\"\" for unset)", one_of(names)),
            Self::Address => {
                "host:port, such as \"127.0.0.1:8765\" (\"0.0.0.0:8765\" for every address)".into()
            }
            Self::Route => "a URL path that begins with /, such as \"/mcp\"".into(),
            Self::Url => "an http:// or https:// URL".into(),
            Self::Env | Self::Bases => "a table".into(),
        }
    }
}

fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bools_in_variables_are_the_twelve_spellings() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(Kind::Bool.parse(text), Some(Value::Boolean(true)));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(Kind::Bool.parse(text), Some(Value::Boolean(false)));
        }
        for text in ["yes", "no", "on", "tRUE", " true", "2"] {
            assert_eq!(Kind::Bool.parse(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_checked_by_kind() {
        let port = Kind::Integer {
            least: 0,
            max: 65535,
            unit: "",
        };
        for (kind, good, bad) in [
            (Kind::Address, "127.0.0.1:8765", ":8765"),
            (Kind::Address, "[::1]:0", "::1:80"),
            (Kind::Address, "localhost:80", "localhost"),
            (Kind::Address, "a.example:65535", "a.example:65536"),
            (Kind::Address, "a:80", "a:+80"),
            (Kind::Route, "/", "mcp"),
            (Kind::Route, "/a/b", "/a?b"),
            (Kind::Url, "https://a.example/x", "a.example"),
            (Kind::Url, "http://10.0.0.1:8080", "file:///x"),
            (Kind::NamePrefix, "mcp-", "MCP"),
            (Kind::NamePrefix, "", "-a"),
            (Kind::Text, "x", ""),
            (Kind::OptionalText, "", "a\0b"),
            (Kind::Cpus, "0-3", "two"),
            (Kind::Cpus, "", "0"),
            (Kind::Duration, "1m", "0s"),
            (Kind::OptionalChoice(&["a"]), "", "b"),
        ] {
            assert!(kind.admits(&good.into()), "{kind:?} {good:?}");
            assert!(!kind.admits(&bad.into()), "{kind:?} {bad:?}");
        }
        assert!(port.admits(&65535.into()) && port.admits(&0.into()));
        assert!(!port.admits(&65536.into()) && !port.admits(&(-1).into()));
        assert!(!port.admits(&"1".into()) && !port.admits(&Value::Float(1.0)));
        assert!(Kind::List.admits(&vec!["a", "b"].into()));
        for bad in [vec!["a,b"], vec![""], vec!["a b"]] {
            assert!(!Kind::List.admits(&bad.into()));
        }
        assert!(!Kind::List.admits(&"a".into()) && !Kind::List.admits(&vec![1].into()));
    }
}
