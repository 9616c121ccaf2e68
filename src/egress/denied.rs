//! Denied connections and names, and the rules that would allow them.
//!
//! The gateway and the pixel record denials in the same way: dnsmasq logs
//! denied names, and the nftables set `denied` contains denied destinations.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::Value;

use super::Rule;
use super::nftables::{DENIED_SECONDS, DENIED_SIZE, denied_set};
use crate::model::{Error, ExecRequest, Guest, Result, collect_up_to};

const SCRIPT: &str = include_str!("guest/denials.sh");
/// Size limit for records, far above the size of full records.
const OUTPUT_LIMIT: usize = 4 * 1024 * 1024;
/// Maximum number of reported denials.
const REPORTED: usize = 200;

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

/// The denials of the last hour. Programs in the pixel can cause any number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denials {
    /// The latest denials, latest first.
    pub latest: Vec<Denial>,
    /// Number of earlier denials that were recorded.
    pub earlier: usize,
    /// The record of denied addresses is full: further addresses are denied
    /// without record.
    pub full: bool,
}

/// Denials of the pixel with this address behind the gateway `guest`, or of
/// `guest` itself. Fails with `Error::Guest` if the records cannot be read.
pub async fn denials(guest: &dyn Guest, pixel: Option<Ipv4Addr>) -> Result<Denials> {
    let address = pixel.map(|address| address.to_string()).unwrap_or_default();
    let set = denied_set(pixel);
    let request = ExecRequest::root(["/bin/sh", "-c", SCRIPT, "denials", &address, &set]);
    let output = collect_up_to(guest, &request, OUTPUT_LIMIT).await?;
    let text = output.into_text("reading the denied connections")?;
    parse(&text).ok_or_else(|| Error::Protocol("the list of denied connections".into()))
}

pub(super) fn parse(text: &str) -> Option<Denials> {
    let (names, rest) = text.split_once("sets ")?;
    let (now, sets) = rest.split_once('\n')?;
    let now = now.trim().parse().ok()?;
    let mut latest = parse_destinations(sets, now)?;
    let full = latest.len() >= DENIED_SIZE;
    latest.extend(parse_names(names, now));
    latest.sort_by(|a, b| (b.last, &a.destination).cmp(&(a.last, &b.destination)));
    let earlier = latest.len().saturating_sub(REPORTED);
    latest.truncate(REPORTED);
    Some(Denials {
        latest,
        earlier,
        full,
    })
}

/// A name may have several lines. Ignores lines of more than an hour ago.
fn parse_names(lines: &str, now: u64) -> impl Iterator<Item = Denial> {
    let mut names = BTreeMap::<&str, (u64, u64)>::new();
    for (last, count, name) in lines.lines().filter_map(parse_name) {
        if last >= now.saturating_sub(DENIED_SECONDS) {
            let known = names.entry(name).or_default();
            *known = (known.0.max(last), known.1.saturating_add(count));
        }
    }
    names.into_iter().map(|(name, (last, count))| Denial {
        rule: allowing_rule(name),
        destination: name.to_owned(),
        protocol: "dns".into(),
        count,
        last,
    })
}

fn parse_name(line: &str) -> Option<(u64, u64, &str)> {
    let mut fields = line.strip_prefix("name ")?.split(' ');
    let last = fields.next()?.split('.').next()?.parse().ok()?;
    let count = fields.next()?.parse().ok()?;
    Some((last, count, fields.next()?))
}

/// Parse and print the rule again: root inside a pixel controls the text.
fn allowing_rule(destination: &str) -> Option<String> {
    let rule = destination.parse::<Rule>().ok()?;
    Some(rule.to_string())
}

/// The set does not exist before a gateway has applied the pixel's policy.
fn parse_destinations(json: &str, now: u64) -> Option<Vec<Denial>> {
    let listing: Value = serde_json::from_str(json).ok()?;
    let mut items = listing["nftables"].as_array()?.iter();
    let set = items.find_map(|item| item.get("set"));
    let elements = set.and_then(|set| set["elem"].as_array());
    let parse_element = |element: &Value| {
        let element = &element["elem"];
        let [_, to, protocol, port] = &element["val"]["concat"].as_array()?[..] else {
            return None;
        };
        let expires = element["expires"].as_u64().unwrap_or(0);
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
name 900 1 -x.example
name 950 2 -x.example
name 100 1 old.example
sets 4000
{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"set": {"name": "d_0a620005", "elem": [
 {"elem": {"val": {"concat": ["10.98.0.5", "192.0.2.1", "tcp", 443]}, "timeout": 3600, "expires": 590, "counter": {"packets": 2, "bytes": 120}}},
 {"elem": {"val": {"concat": ["10.98.0.5", "192.0.2.9", "icmp", 0]}, "timeout": 3600, "expires": 600, "counter": {"packets": 1, "bytes": 84}}},
 {"elem": {"val": {"concat": ["10.98.0.5", "192.0.2.2", 41, 0]}, "timeout": 3600, "expires": 1}}
]}}]}"#;
        let denials = parse(text).unwrap();
        let parsed: Vec<_> = denials
            .latest
            .iter()
            .map(|d| (d.destination.as_str(), d.protocol.as_str(), d.count, d.last))
            .collect();
        assert_eq!(
            parsed,
            [
                ("192.0.2.9", "icmp", 1, 1000),
                ("denied.example", "dns", 3, 1000),
                ("192.0.2.1:443", "tcp", 2, 990),
                ("-x.example", "dns", 3, 950),
                ("192.0.2.2", "41", 0, 401),
            ]
        );
        assert_eq!(denials.latest[2].rule.as_deref(), Some("192.0.2.1:443"));
        assert_eq!(denials.latest[3].rule, None);
        assert_eq!(denials.latest[4].rule, None);
        let empty = "sets 1\n{\"nftables\": []}";
        assert_eq!(parse(empty), Some(Denials::default()));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn parse_limits_reported_denials() {
        let element = |number: usize| {
            format!(
                r#"{{"elem": {{"val": {{"concat": ["10.98.0.5", "192.0.2.1", "tcp", {number}]}}}}}}"#
            )
        };
        let elements: Vec<String> = (1..=DENIED_SIZE).map(element).collect();
        let names: String = (0..300)
            .map(|n| format!("name 4000 1 n{n}.example\n"))
            .collect();
        let text = format!(
            "{names}sets 4000\n{{\"nftables\": [{{\"set\": {{\"elem\": [{}]}}}}]}}",
            elements.join(",")
        );
        let denials = parse(&text).unwrap();
        assert_eq!(denials.latest.len(), REPORTED);
        assert_eq!(denials.earlier, DENIED_SIZE + 300 - REPORTED);
        assert!(denials.full);
        assert!(denials.latest.iter().all(|denial| denial.protocol == "dns"));
    }
}
