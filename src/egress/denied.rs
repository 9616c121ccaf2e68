//! What a pixel was refused, and what would admit it. Wherever a policy is
//! enforced, the same resolver and the same set of the packet filter tell.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Rule;
use crate::model::{Error, ExecRequest, Guest, Result, collect_up_to};

const SCRIPT: &str = include_str!("guest/denials.sh");
/// A pixel that asks for a new name at every turn makes a long list.
const LISTED: usize = 64 * 1024 * 1024;
/// As in the ruleset.
const REMEMBERED: u64 = 3600;

/// One destination, however often it was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// A name, or an address with its port where it has one.
    pub destination: String,
    /// `dns`, `tcp`, `udp`, `icmp` or a number.
    pub protocol: String,
    pub count: u64,
    /// Seconds since 1970.
    pub last: u64,
    /// What `network allow` takes to admit it; nothing admits a protocol that
    /// policies do not speak of.
    pub entry: Option<String>,
}

/// What was refused within the last hour by what enforces policies in `guest`,
/// the latest first: to the pixel of this address, or to everybody.
pub async fn denials(guest: &dyn Guest, pixel: Option<Ipv4Addr>) -> Result<Vec<Denial>> {
    let address = pixel.map(|address| address.to_string()).unwrap_or_default();
    let request = ExecRequest::root(["/bin/sh", "-c", SCRIPT, "denials", &address]);
    let output = collect_up_to(guest, &request, LISTED).await?;
    if !output.status.success() {
        return Err(Error::Guest {
            command: "reading what was refused".into(),
            status: output.status.0,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    parse(&String::from_utf8_lossy(&output.stdout), pixel)
        .ok_or_else(|| Error::Protocol("what was refused".into()))
}

pub(super) fn parse(text: &str, pixel: Option<Ipv4Addr>) -> Option<Vec<Denial>> {
    let (names, rest) = text.split_once("sets ")?;
    let (now, sets) = rest.split_once('\n')?;
    let mut found: Vec<Denial> = names.lines().filter_map(parse_name).collect();
    found.extend(parse_destinations(sets, pixel, now.trim().parse().ok()?)?);
    found.sort_by(|a, b| (b.last, &a.destination).cmp(&(a.last, &b.destination)));
    Some(found)
}

fn parse_name(line: &str) -> Option<Denial> {
    let mut fields = line.strip_prefix("name ")?.split(' ');
    let last = fields.next()?.split('.').next()?.parse().ok()?;
    let count = fields.next()?.parse().ok()?;
    let destination = fields.next()?.to_owned();
    Some(Denial {
        entry: allowing_rule(&destination),
        destination,
        protocol: "dns".into(),
        count,
        last,
    })
}

/// Root may have written what an enforcer inside a pixel tells.
fn allowing_rule(destination: &str) -> Option<String> {
    let entry = destination.parse::<Rule>().ok()?;
    Some(entry.to_string())
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Value>,
}

#[derive(Deserialize)]
struct Element {
    val: Concatenation,
    #[serde(default)]
    expires: u64,
    #[serde(default)]
    counter: Counter,
}

#[derive(Deserialize)]
struct Concatenation {
    concat: Vec<Value>,
}

#[derive(Deserialize, Default)]
struct Counter {
    #[serde(default)]
    packets: u64,
}

fn parse_destinations(json: &str, pixel: Option<Ipv4Addr>, now: u64) -> Option<Vec<Denial>> {
    let listing: Listing = serde_json::from_str(json).ok()?;
    let set = listing.nftables.iter().find_map(|item| item.get("set"))?;
    let elements = set.get("elem").and_then(Value::as_array);
    let of_pixel = |element: &Value| {
        let element: Element = serde_json::from_value(element.get("elem")?.clone()).ok()?;
        let [from, to, protocol, port] = &element.val.concat[..] else {
            return None;
        };
        let from = from.as_str()?;
        if pixel.is_some_and(|pixel| from != pixel.to_string()) {
            return None;
        }
        let protocol = match element_text(protocol).as_str() {
            "1" => "icmp".to_owned(),
            "6" => "tcp".to_owned(),
            "17" => "udp".to_owned(),
            other => other.to_owned(),
        };
        let to = to.as_str()?;
        let destination = match element_text(port).as_str() {
            "0" => to.to_owned(),
            port => format!("{to}:{port}"),
        };
        let admissible = matches!(protocol.as_str(), "tcp" | "udp" | "icmp");
        Some(Denial {
            entry: allowing_rule(&destination).filter(|_| admissible),
            destination,
            protocol,
            count: element.counter.packets,
            last: now.saturating_sub(REMEMBERED.saturating_sub(element.expires)),
        })
    };
    Some(
        elements
            .into_iter()
            .flatten()
            .filter_map(of_pixel)
            .collect(),
    )
}

/// nft writes what it has a name for as a name.
fn element_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_latest_first() {
        let text = r#"name 1000.5 3 denied.example
name 900.1 1 -x.example
sets 2000
{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"set": {"name": "denied", "elem": [
 {"elem": {"val": {"concat": ["10.98.0.5", "192.0.2.1", "tcp", 443]}, "timeout": 3600, "expires": 3590, "counter": {"packets": 2, "bytes": 120}}},
 {"elem": {"val": {"concat": ["10.98.0.5", "192.0.2.9", "icmp", 0]}, "timeout": 3600, "expires": 2600, "counter": {"packets": 1, "bytes": 84}}},
 {"elem": {"val": {"concat": ["10.98.0.6", "192.0.2.2", 17, 53]}, "timeout": 3600, "expires": 1}}
]}}]}"#;
        let found = parse(text, Some(Ipv4Addr::new(10, 98, 0, 5))).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|d| (d.destination.as_str(), d.protocol.as_str(), d.count, d.last))
            .collect();
        assert_eq!(
            told,
            [
                ("192.0.2.1:443", "tcp", 2, 1990),
                ("192.0.2.9", "icmp", 1, 1000),
                ("denied.example", "dns", 3, 1000),
                ("-x.example", "dns", 1, 900),
            ]
        );
        assert_eq!(found[0].entry.as_deref(), Some("192.0.2.1:443"));
        assert_eq!(found[3].entry, None);
        let empty = "sets 1\n{\"nftables\": [{\"set\": {\"name\": \"denied\"}}]}";
        assert_eq!(parse(empty, None), Some(Vec::new()));
        assert_eq!(parse("", None), None);
    }
}
