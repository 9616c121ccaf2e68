//! Denied connections and names, and the rules that would allow them.
//!
//! The gateway and the pixel record denials in the same way: dnsmasq logs
//! denied names, and the nftables set `denied` contains denied destinations.

use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::Value;

use super::Rule;
use super::nftables::DENIED_SECONDS;
use crate::model::{Error, ExecRequest, Guest, Result, collect_up_to};

const SCRIPT: &str = include_str!("guest/denials.sh");
/// Size limit for records: a pixel can query any number of names.
const OUTPUT_LIMIT: usize = 64 * 1024 * 1024;

/// One denied destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// A host name, or an address with the port if the protocol has ports.
    pub destination: String,
    /// `dns`, `tcp`, `udp`, `icmp` or the protocol number.
    pub protocol: String,
    pub count: u64,
    /// Unix time in seconds.
    pub last: u64,
    /// The rule that would allow the destination. `None` for protocols that
    /// rules cannot allow.
    #[serde(rename = "entry")]
    pub rule: Option<String>,
}

/// Denials of the last hour, latest first: of the pixel with this address, or
/// of all pixels. Reads the records of `guest`, and fails with `Error::Guest`
/// if they cannot be read.
pub async fn denials(guest: &dyn Guest, pixel: Option<Ipv4Addr>) -> Result<Vec<Denial>> {
    let address = pixel.map(|address| address.to_string()).unwrap_or_default();
    let request = ExecRequest::root(["/bin/sh", "-c", SCRIPT, "denials", &address]);
    let output = collect_up_to(guest, &request, OUTPUT_LIMIT).await?;
    let text = output.into_text("reading the denied connections")?;
    parse(&text, pixel).ok_or_else(|| Error::Protocol("the list of denied connections".into()))
}

pub(super) fn parse(text: &str, pixel: Option<Ipv4Addr>) -> Option<Vec<Denial>> {
    let (names, rest) = text.split_once("sets ")?;
    let (now, sets) = rest.split_once('\n')?;
    let mut denials: Vec<Denial> = names.lines().filter_map(parse_name).collect();
    denials.extend(parse_destinations(sets, pixel, now.trim().parse().ok()?)?);
    denials.sort_by(|a, b| (b.last, &a.destination).cmp(&(a.last, &b.destination)));
    Some(denials)
}

fn parse_name(line: &str) -> Option<Denial> {
    let mut fields = line.strip_prefix("name ")?.split(' ');
    let last = fields.next()?.split('.').next()?.parse().ok()?;
    let count = fields.next()?.parse().ok()?;
    let destination = fields.next()?.to_owned();
    Some(Denial {
        rule: allowing_rule(&destination),
        destination,
        protocol: "dns".into(),
        count,
        last,
    })
}

/// Parse and print the rule again: root inside a pixel controls the text.
fn allowing_rule(destination: &str) -> Option<String> {
    let rule = destination.parse::<Rule>().ok()?;
    Some(rule.to_string())
}

fn parse_destinations(json: &str, pixel: Option<Ipv4Addr>, now: u64) -> Option<Vec<Denial>> {
    let listing: Value = serde_json::from_str(json).ok()?;
    let mut items = listing["nftables"].as_array()?.iter();
    let set = items.find_map(|item| item.get("set"))?;
    let elements = set["elem"].as_array();
    let parse_element = |element: &Value| {
        let element = &element["elem"];
        let [from, to, protocol, port] = &element["val"]["concat"].as_array()?[..] else {
            return None;
        };
        let expires = element["expires"].as_u64().unwrap_or(0);
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
        let allowable = matches!(protocol.as_str(), "tcp" | "udp" | "icmp");
        Some(Denial {
            rule: allowing_rule(&destination).filter(|_| allowable),
            destination,
            protocol,
            count: element["counter"]["packets"].as_u64().unwrap_or(0),
            last: now.saturating_sub(DENIED_SECONDS.saturating_sub(expires)),
        })
    };
    let elements = elements.into_iter().flatten();
    Some(elements.filter_map(parse_element).collect())
}

/// nft prints protocols and ports as names or as numbers.
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
    fn parse_sorts_newest_first() {
        let text = r#"name 1000.5 3 denied.example
name 900.1 1 -x.example
sets 2000
{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"set": {"name": "denied", "elem": [
 {"elem": {"val": {"concat": ["10.98.0.5", "192.0.2.1", "tcp", 443]}, "timeout": 3600, "expires": 3590, "counter": {"packets": 2, "bytes": 120}}},
 {"elem": {"val": {"concat": ["10.98.0.5", "192.0.2.9", "icmp", 0]}, "timeout": 3600, "expires": 2600, "counter": {"packets": 1, "bytes": 84}}},
 {"elem": {"val": {"concat": ["10.98.0.6", "192.0.2.2", 17, 53]}, "timeout": 3600, "expires": 1}}
]}}]}"#;
        let denials = parse(text, Some(Ipv4Addr::new(10, 98, 0, 5))).unwrap();
        let parsed: Vec<_> = denials
            .iter()
            .map(|d| (d.destination.as_str(), d.protocol.as_str(), d.count, d.last))
            .collect();
        assert_eq!(
            parsed,
            [
                ("192.0.2.1:443", "tcp", 2, 1990),
                ("192.0.2.9", "icmp", 1, 1000),
                ("denied.example", "dns", 3, 1000),
                ("-x.example", "dns", 1, 900),
            ]
        );
        assert_eq!(denials[0].rule.as_deref(), Some("192.0.2.1:443"));
        assert_eq!(denials[3].rule, None);
        let empty = "sets 1\n{\"nftables\": [{\"set\": {\"name\": \"denied\"}}]}";
        assert_eq!(parse(empty, None), Some(Vec::new()));
        assert_eq!(parse("", None), None);
    }
}
