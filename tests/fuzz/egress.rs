//! Policies as users and records have them, what is made of them for nftables
//! and dnsmasq, and what their enforcers tell.

use std::net::Ipv4Addr;

use super::gateway::{DesiredState, GatewayState, Subnet};
use super::pixel::Files;
use super::{Cidr, KEY, Mode, Policy, Rule, denied, presets, render};
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
fn entries() {
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
            Ok(entry) => {
                let written = entry.to_string();
                assert_eq!(written.parse().as_ref(), Ok(&entry));
                assert!(entry.covers(&entry));
                is_rendered_safely(&Policy::new(Mode::Allowlist, [entry]));
                format!("{}", written.len() / 32)
            }
            // Addresses and letters do not matter, sorts of mistakes do.
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
        let again = Policy::from_record(Some(&policy.to_record()));
        assert_eq!(again.as_ref(), Ok(&policy));
        is_rendered_safely(&policy);
        (true, policy.allow.len())
    });
}

/// Of both placements: lines of what these languages have, nothing quoted,
/// nothing that ends a line early, no name that was not parsed.
fn is_rendered_safely(policy: &Policy) {
    let effective = policy.resolve(presets());
    let chains = render::chains(&effective, &[]);
    let listen = render::ResolverListen {
        address: None,
        port: 53,
        upstream: &[],
    };
    let resolver = render::resolver(&effective, &listen);
    for line in chains.text.lines() {
        assert!(
            line.starts_with("add ") || line.starts_with("flush "),
            "{line:?}"
        );
        let plain = |c: char| c.is_ascii_alphanumeric() || " _@./{},;:-".contains(c);
        assert!(line.chars().all(plain), "{line:?}");
        // The only blocks are those of sets and protocols.
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
    let files = Files::new(&effective, &[]);
    assert_eq!(files.id, chains.id);
}

/// All that a server has on record of pixels, as a gateway gets it.
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
            bridge: "pixels0",
            instances: &instances,
            presets: presets(),
            dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
            host: Vec::new(),
            ready: GatewayState::parse(&format!("ready {text}")).unwrap_or_default(),
        };
        let written = desired.state_files().unwrap().to_text();
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

/// Where the enforcer is inside the pixel, root there writes them.
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
        let found = denied::parse(&text(bytes), None)?;
        for denial in &found {
            // It is shown as what a command takes.
            if let Some(entry) = &denial.entry {
                assert_eq!(
                    entry.parse::<Rule>().map(|e| e.to_string()).as_ref(),
                    Ok(entry)
                );
            }
        }
        Some(found.len())
    });
}
