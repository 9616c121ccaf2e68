//! Fuzz tests of rules, records and denials, and of policies rendered for
//! nftables and dnsmasq.

use std::net::Ipv4Addr;

use super::gateway::{DesiredState, GatewayState, LeaseChange, Subnet};
use super::pixel::Files;
use super::{Cidr, KEY, Mode, Policy, Rule, denied, dnsmasq, nftables, presets};
use crate::fuzz::{fuzz, pixel, text};
use crate::model::{Instance, Properties};

const WORDS: &[&str] = &[
    "*.",
    "example.org",
    "xn--",
    "192.0.2.0/24",
    "2001:db8::/32",
    "[",
    "]",
    ":443",
    "://",
    "@",
    "b\u{fc}cher",
    "_sip.",
    "\u{3002}",
    "\u{ff0e}",
    "\u{ff0f}",
    "%00",
    "a.example",
];

#[test]
fn rules() {
    fuzz("policy-entries", 1500, WORDS, |bytes| {
        let text = text(bytes);
        let _ = text.parse::<Cidr>().map(|net| {
            assert_eq!(net.to_string().parse::<Cidr>(), Ok(net));
        });
        let _ = text.parse::<Subnet>().map(|subnet| {
            assert_eq!(subnet.to_string().parse::<Subnet>().ok(), Some(subnet));
            assert!(subnet.contains(subnet.gateway()));
        });
        match text.parse::<Rule>() {
            Ok(rule) => {
                let written = rule.to_string();
                assert_eq!(written.parse().as_ref(), Ok(&rule));
                assert!(rule.covers(&rule));
                assert_renders_safely(&Policy::new(Mode::Allowlist, [rule]));
                format!("{}", written.len() / 32)
            }
            // Returns the kind of error without the input.
            Err(error) => error.reason.chars().take(24).collect(),
        }
    });
}

#[test]
fn records() {
    let words = [
        WORDS,
        &[
            "\"allow\":[",
            "\"deny\":[",
            "\"mode\":",
            "\"agent\"",
            "\"lan\":true",
        ],
    ];
    fuzz("policy-records", 400, &words.concat(), |bytes| {
        let text = text(bytes);
        let Ok(policy) = Policy::from_record(Some(&text)) else {
            return (false, 0);
        };
        let reparsed = Policy::from_record(Some(&policy.to_record()));
        assert_eq!(reparsed.as_ref(), Ok(&policy));
        assert_renders_safely(&policy);
        (true, policy.allow.len())
    });
}

/// Checks that both renderers write only characters of their languages: no
/// quotes, no line breaks inside a line, no unparsed text.
fn assert_renders_safely(policy: &Policy) {
    let resolved = policy.resolve(presets());
    let chains = nftables::chains(&resolved, None);
    let listen = dnsmasq::ResolverListen {
        address: None,
        port: 53,
        forwarder_port: 19_999,
        log: None,
        local_domain: None,
    };
    let resolver = dnsmasq::config(&resolved, &listen);
    for line in chains.text.lines() {
        assert!(
            line.starts_with("add ") || line.starts_with("flush "),
            "{line:?}"
        );
        let plain = |c: char| c.is_ascii_alphanumeric() || " _@./{},;:-".contains(c);
        let words = line.replace(" != ", " ");
        assert!(words.chars().all(plain), "{line:?}");
        // Braces enclose only sets and protocols.
        let ends = line.trim_end_matches(" }");
        assert!(
            !ends.contains(';') || line.starts_with("add set "),
            "{line:?}"
        );
    }
    for line in resolver.lines() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.*#,".contains(c);
        assert!(line.chars().all(plain), "{line:?}");
        if let Some(rest) = line.strip_prefix("server=/") {
            assert_eq!(rest.matches('/').count(), 1, "{line:?}");
            assert!(!rest.starts_with('/'), "{line:?}");
        }
    }
    let files = Files::new(&resolved, &[]);
    assert_eq!(files.id, chains.id);
}

/// Renders the state of a gateway from arbitrary records.
#[test]
fn gateways() {
    let words = [
        "10.98.0.5",
        "00:16:3e:00:00:01",
        "\u{1}",
        "\u{2}",
        "{\"version\":1,",
        "nud",
    ];
    fuzz("gateway-records", 800, &words, |bytes| {
        let text = text(bytes);
        let fields: Vec<&str> = text.split('\u{1}').collect();
        let instances: Vec<Instance> = fields
            .chunks(4)
            .enumerate()
            .map(|(number, fields)| instance(number, fields))
            .collect();
        let desired = DesiredState {
            subnet: "10.98.0.0/16".parse().unwrap(),
            pixels: &super::gateway::records(&instances, "pixels0"),
            presets: presets(),
            dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
            host_addresses: Vec::new(),
            current: GatewayState::parse(&format!("ready {text}")).unwrap_or_default(),
            lease_change: LeaseChange::None,
        };
        let written = desired.state_files().unwrap().to_text("");
        let plain = |c: char| c.is_ascii_graphic() || matches!(c, ' ' | '\n' | '\t');
        assert!(written.chars().all(plain), "{written:?}");
        let sound = |line: &&str| line.starts_with("==> ");
        let files = written.lines().filter(sound).count();
        assert!(written.ends_with("==> end\n"));
        files
    });
}

fn instance(number: usize, fields: &[&str]) -> Instance {
    let field = |at: usize| fields.get(at).map(|text| (*text).to_owned());
    let mut properties = Properties::new();
    properties.extend(field(0).map(|address| (super::gateway::ADDRESS.to_owned(), address)));
    properties.extend(field(2).map(|record| (KEY.to_owned(), record)));
    Instance {
        name: format!("a{number}").parse().unwrap(),
        mac: field(1),
        isolated_bridge: Some("pixels0".into()),
        ..pixel(properties)
    }
}

/// Root in a pixel controls the records.
#[test]
fn denied() {
    let words = [
        "name ",
        "sets ",
        "{\"nftables\": [",
        "{\"set\": {\"elem\": [",
        "\"concat\"",
        "\"expires\"",
        "\"counter\"",
        "\"packets\"",
        "tcp",
        "udp",
        "$(id)",
        "--force",
    ];
    fuzz("denials", 8000, &words, |bytes| {
        let denials = denied::parse(&text(bytes))?.latest;
        for denial in &denials {
            // The rule is printed as a command-line argument.
            if let Some(rule) = &denial.rule {
                assert_eq!(
                    rule.parse::<Rule>().map(|e| e.to_string()).as_ref(),
                    Ok(rule)
                );
            }
        }
        Some(denials.len())
    });
}
