//! Accepted values of a key, and how values are displayed.

use std::net::Ipv6Addr;

use toml::Value;

use super::interpolate::is_references_only;
use crate::model::{LEAST_DISK, LEAST_MEMORY, Name, parse_cpus, parse_duration};
use crate::secret::Secret;

#[derive(Debug, Clone, Copy)]
pub enum ValueKind {
    Bool,
    /// A whole number from the first to the second number, with a unit.
    Integer(i64, i64, &'static str),
    /// A string that passes the check, with a description of accepted strings.
    Text(&'static str, fn(&str) -> bool),
    Choice(&'static [&'static str]),
    /// A non-empty string that is never displayed.
    Secret,
    /// A list of non-empty strings without commas and whitespace.
    List,
    /// The table `[env]`. Literal strings in it are never displayed.
    Env,
    /// The table `[mcp.bases]`.
    Bases,
}

macro_rules! texts {
    ($($name:ident = $description:literal, $check:expr;)*) => {$(
        pub const $name: ValueKind = ValueKind::Text($description, $check);
    )*};
}

texts! {
    NON_EMPTY = "a non-empty string", |text| !text.is_empty();
    PATH = "a path", |text| !text.is_empty();
    CPUS = "a string with a CPU count such as \"2\" or a CPU set such as \"0-3\"",
        |text| parse_cpus(text).is_ok();
    NAME_PREFIX = "the beginning of a pixel name: a-z, 0-9 and -, not starting with -",
        |text| format!("{text}a").parse::<Name>().is_ok();
    DURATION = "a duration above zero, such as \"90s\" or \"1h30m\"",
        |text| parse_duration(text).is_some();
    URL = "an http:// or https:// URL", |text| {
        let valid = |url: url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        url::Url::parse(text).is_ok_and(valid)
    };
    URL_PATH = "a URL path that starts with /, such as \"/mcp\"", |text| {
        text.starts_with('/') && !text.contains(|c: char| "?#".contains(c) || c <= ' ')
    };
    HOST_PORT = "host:port, such as \"127.0.0.1:8765\" (\"0.0.0.0:8765\" for all addresses)", |text| {
        text.rsplit_once(':').is_some_and(|(host, port)| {
            let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                Some(address) => address.parse::<Ipv6Addr>().is_ok(),
                None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']),
            };
            host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
        })
    };
    INTERFACE = "the name of a network interface: 2 to 15 of a-z, 0-9 and -, starting with a letter", |text| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (2..=15).contains(&text.len()) && text.bytes().all(allowed)
            && text.as_bytes()[0].is_ascii_lowercase() && !text.ends_with('-')
    };
    SUBNET = "an IPv4 network with a prefix length of 8 to 29, such as \"10.98.0.0/16\"", |text| {
        let is_valid = |network: ipnet::Ipv4Net| (8..=29).contains(&network.prefix_len());
        text.parse().is_ok_and(is_valid)
    };
}

/// Memory, up to the largest size in bytes that the server accepts.
pub const MEMORY: ValueKind = ValueKind::Integer(
    (LEAST_MEMORY >> 20).cast_signed(),
    i64::MAX >> 20,
    " of MiB",
);

/// Disk space, up to the largest size in bytes that the server accepts.
pub const DISK: ValueKind =
    ValueKind::Integer((LEAST_DISK >> 20).cast_signed(), i64::MAX >> 20, " of MiB");

impl ValueKind {
    /// Whether each entry of the value is a key of its own.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Env | Self::Bases)
    }

    /// Converts the text of an environment variable. Text of another kind
    /// remains a string, which [`accepts`](Self::accepts) rejects.
    pub fn parse_variable(self, text: &str) -> Value {
        match (self, text) {
            // The spellings of Go's strconv.ParseBool.
            (Self::Bool, "1" | "t" | "T" | "TRUE" | "true" | "True") => true.into(),
            (Self::Bool, "0" | "f" | "F" | "FALSE" | "false" | "False") => false.into(),
            (Self::Integer(..), _) => text.parse().map_or_else(|_| text.into(), Value::Integer),
            _ => text.into(),
        }
    }

    pub fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bool, Value::Boolean(_)) => true,
            (Self::Integer(min, max, _), Value::Integer(number)) => (min..=max).contains(number),
            (Self::Text(_, is_valid), Value::String(text)) => is_valid(text),
            (Self::Choice(words), Value::String(text)) => words.contains(&text.as_str()),
            (Self::Secret, Value::String(text)) => !text.is_empty(),
            (Self::List, Value::Array(items)) => items.iter().all(|item| {
                let separator = |c: char| c == ',' || c.is_whitespace();
                let is_valid = |item: &str| !item.is_empty() && !item.contains(separator);
                item.as_str().is_some_and(is_valid)
            }),
            (Self::Env | Self::Bases, Value::Table(_)) => true,
            _ => false,
        }
    }

    /// Describes the accepted values, to be read after "must be".
    pub fn description(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Integer(min, max, unit) => format!("a whole number{unit} from {min} to {max}"),
            Self::Text(description, _) => description.into(),
            Self::Choice(words) => format!("\"{}\"", words.join("\" or \"")),
            Self::Secret => "a non-empty string".into(),
            Self::List => "a list of strings without commas and spaces".into(),
            Self::Env | Self::Bases => "a table".into(),
        }
    }

    /// Masks secrets in a value, or in an entry of a table.
    pub fn masked(self, value: &Value) -> Value {
        match (self, value) {
            (Self::Env, Value::Table(fields)) => {
                let masked = |(name, value): (&String, &Value)| (name.clone(), self.masked(value));
                Value::Table(fields.iter().map(masked).collect())
            }
            (Self::Env, Value::Boolean(_)) => value.clone(),
            (Self::Env, Value::String(text)) if is_references_only(text) => value.clone(),
            (Self::Secret, Value::String(text)) if text.is_empty() => value.clone(),
            (Self::Env | Self::Secret, _) => Secret::MASK.into(),
            _ => value.clone(),
        }
    }
}
