//! The gateway's packet filter around the chains of the policies.
//!
//! Everything is in one table and written so that loading it again replaces
//! what it says in one transaction and keeps the addresses that resolvers have
//! learned meanwhile.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::members::Member;
use super::subnet::Subnet;
use crate::egress::render::Chains;

/// Marks connections that the host opened to a pixel.
const INBOUND: u32 = 1;
/// How long a refused destination stays in the log.
const REMEMBER: &str = "1h";
const LOG_SIZE: u32 = 65_535;

/// What the ruleset is made from.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    pub subnet: Subnet,
    /// The one address outside that may open connections to pixels.
    pub host: Option<Ipv4Addr>,
    pub policies: &'a [Chains],
    /// Each with the index of its policy and the port of its resolver.
    pub members: &'a [(Member, usize, u16)],
}

/// Walls without a door.
pub fn closed(subnet: Subnet) -> String {
    ruleset(&Rules {
        subnet,
        host: None,
        policies: &[],
        members: &[],
    })
}

pub fn ruleset(rules: &Rules<'_>) -> String {
    let mut text = String::from(
        "add table inet pixels\n\
         add set inet pixels pins { type ether_addr . ipv4_addr; }\n\
         add set inet pixels live { type ipv4_addr . mark; }\n\
         add map inet pixels resolvers { type ipv4_addr : inet_service; }\n\
         add map inet pixels outward { type ipv4_addr : verdict; }\n\
         add map inet pixels inward { type ipv4_addr : verdict; }\n",
    );
    let _ = writeln!(
        text,
        "add set inet pixels denied {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; \
         flags dynamic,timeout; timeout {REMEMBER}; size {LOG_SIZE}; counter; }}"
    );
    text.push_str("add chain inet pixels refuse\n");
    for policy in rules.policies {
        text.push_str(&policy.text);
    }
    elements(&mut text, rules);
    chains(&mut text, rules);
    text
}

fn elements(text: &mut String, rules: &Rules<'_>) {
    let fill = |text: &mut String, kind: &str, name: &str, elements: Vec<String>| {
        let _ = writeln!(text, "flush {kind} inet pixels {name}");
        if !elements.is_empty() {
            let elements = elements.join(", ");
            let _ = writeln!(text, "add element inet pixels {name} {{ {elements} }}");
        }
    };
    let of = |render: &dyn Fn(&Member, &Chains, u16) -> String| {
        rules
            .members
            .iter()
            .map(|(member, policy, port)| render(member, &rules.policies[*policy], *port))
            .collect::<Vec<_>>()
    };
    let pins = of(&|member, _, _| format!("{} . {}", member.mac, member.address));
    let live = of(&|member, policy, _| format!("{} . {:#x}", member.address, policy.mark));
    let resolvers = of(&|member, _, port| format!("{} : {port}", member.address));
    let outward = of(&|member, policy, _| format!("{} : jump p_{}", member.address, policy.id));
    let inward = of(&|member, policy, _| format!("{} : jump r_{}", member.address, policy.id));
    let _ = writeln!(
        text,
        "add table arp pixels\nadd set arp pixels pins {{ type ether_addr . ipv4_addr; }}\nflush set arp pixels pins"
    );
    if !pins.is_empty() {
        let _ = writeln!(
            text,
            "add element arp pixels pins {{ {} }}",
            pins.join(", ")
        );
    }
    fill(text, "set", "pins", pins);
    fill(text, "set", "live", live);
    fill(text, "map", "resolvers", resolvers);
    fill(text, "map", "outward", outward);
    fill(text, "map", "inward", inward);
}

fn chains(text: &mut String, rules: &Rules<'_>) {
    let gateway = rules.subnet.gateway();
    let subnet = rules.subnet;
    let mut chain = |name: &str, hook: &str, lines: &[String]| {
        let _ = if hook.is_empty() {
            writeln!(text, "add chain inet pixels {name}")
        } else {
            writeln!(text, "add chain inet pixels {name} {{ type {hook}; }}")
        };
        let _ = writeln!(text, "flush chain inet pixels {name}");
        for line in lines {
            let _ = writeln!(text, "add rule inet pixels {name} {line}");
        }
    };
    let lines = |of: &[&str]| of.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();

    chain("lease", "", &leases(rules.members));
    // Who says it is a pixel must be that pixel.
    chain(
        "identity",
        "filter hook prerouting priority raw; policy accept",
        &lines(&[
            "iifname != \"eth1\" accept",
            "meta nfproto ipv6 drop",
            "udp sport 68 udp dport 67 jump lease",
            "ether saddr . ip saddr != @pins drop",
        ]),
    );
    chain(
        "resolve",
        "nat hook prerouting priority dstnat; policy accept",
        &lines(&[
            "iifname \"eth1\" meta nfproto ipv4 meta l4proto { tcp, udp } th dport 53 \
             redirect to :ip saddr map @resolvers",
        ]),
    );
    chain(
        "refuse",
        "",
        &lines(&[
            // Nobody could be told, and nobody asks.
            "ip daddr { 224.0.0.0/4, 255.255.255.255 } drop",
            "meta l4proto { tcp, udp } \
             update @denied { ip saddr . ip daddr . meta l4proto . th dport }",
            "meta l4proto icmp update @denied { ip saddr . ip daddr . meta l4proto . 0 }",
            "meta l4proto tcp ct state established reject with tcp reset",
            "reject with icmpx admin-prohibited",
        ]),
    );
    // A connection is known by the mark of the policy that allowed it: one
    // that was allowed by an earlier policy is judged again by the present one.
    chain(
        "outgoing",
        "",
        &[
            "ct direction original ct state established,related ip saddr . ct mark @live accept"
                .into(),
            format!("ct direction reply ct state established,related ct mark {INBOUND:#x} accept"),
            "ct direction original ip saddr vmap @outward".into(),
            "jump refuse".into(),
        ],
    );
    let mut incoming = lines(&[
        "ct direction reply ct state established,related ip daddr . ct mark @live accept",
        "ct direction reply ct state established,related ip daddr vmap @inward",
        "ct direction original ct state established,related ct mark 0x1 accept",
    ]);
    if let Some(host) = rules.host {
        // Nor does a resolver of the host's open one by its answer, should a
        // pixel's question have reached it behind the gateway's back.
        incoming.push(format!("ip saddr {host} udp sport 53 drop"));
        incoming.push(format!(
            "ct direction original ct state new ip saddr {host} ip daddr {subnet} \
             ct mark set {INBOUND:#x} accept"
        ));
    }
    incoming.push("drop".into());
    chain("incoming", "", &incoming);
    chain(
        "forwarding",
        "filter hook forward priority filter; policy drop",
        &lines(&[
            "meta nfproto ipv6 drop",
            "iifname \"eth1\" oifname \"eth0\" jump outgoing",
            "iifname \"eth0\" oifname \"eth1\" jump incoming",
            "iifname \"eth1\" jump refuse",
        ]),
    );
    chain(
        "to_gateway",
        "filter hook input priority filter; policy drop",
        &[
            "iifname \"lo\" accept".into(),
            "iifname \"eth0\" ct state established,related accept".into(),
            "iifname \"eth0\" meta nfproto ipv6 icmpv6 type { nd-neighbor-solicit, \
             nd-neighbor-advert, nd-router-advert } accept"
                .into(),
            // Its own lease.
            "iifname \"eth0\" udp sport 67 udp dport 68 accept".into(),
            "iifname \"eth1\" ether type ip udp sport 68 udp dport 67 accept".into(),
            // Only what was sent to port 53 and redirected.
            format!(
                "iifname \"eth1\" ip daddr {gateway} ct status dnat meta l4proto {{ tcp, udp }} accept"
            ),
            // What is said in return to a query or to the host's own connections.
            "iifname \"eth1\" ct direction reply ct state established,related accept".into(),
            "iifname \"eth1\" jump refuse".into(),
        ],
    );
    chain(
        "translate",
        "nat hook postrouting priority srcnat; policy accept",
        &[
            format!("oifname \"eth0\" ip saddr {subnet} masquerade"),
            // Under the gateway's name, so that the host's own filter, which
            // may see bridged packets too, sees another connection.
            format!("oifname \"eth1\" ip saddr != {gateway} masquerade"),
        ],
    );
    text.push_str(ARP);
}

/// Requests for an address, the one thing that may come without one. A pixel
/// asks for itself (`chaddr`) only, or it could decline a neighbour's address;
/// and the answer goes nowhere else (`ciaddr`, `giaddr`), or the gateway would
/// carry it to a neighbour.
fn leases(members: &[(Member, usize, u16)]) -> Vec<String> {
    let mut rules = Vec::new();
    for (member, _, _) in members {
        let mac = member.mac.replace(':', "");
        for address in [Ipv4Addr::UNSPECIFIED, member.address] {
            rules.push(format!(
                "ether saddr {} ip saddr {address} @th,160,32 {:#x} @th,256,80 0x{mac} accept",
                member.mac,
                address.to_bits()
            ));
        }
    }
    rules.push("drop".into());
    rules
}

/// Nor does the gateway listen to a pixel that speaks of another's address.
const ARP: &str = "\
add chain arp pixels identity { type filter hook input priority filter; policy accept; }
flush chain arp pixels identity
add rule arp pixels identity iifname \"eth1\" arp saddr ether . arp saddr ip != @pins drop
";
