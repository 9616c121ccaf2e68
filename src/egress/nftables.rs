//! Renders a policy as nftables chains and sets.
//!
//! Rules for names allow the addresses that the resolver learned: each name has
//! a set, and every DNS answer adds its addresses to the set, for longer than a
//! client may cache the answer. A policy uses only the sets of its own names,
//! and a name keeps its set when other rules change.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::net::Ipv4Addr;

use super::cidr::{Cidr, PRIVATE, RESERVED};
use super::dnsmasq::RESTRICTED_FORWARDER;
use super::policy::ResolvedPolicy;
use super::rule::{Rule, Target};
use crate::model::{hex, sha256};

/// Time that an address stays allowed after the last DNS answer with it.
const LEARNED_TIMEOUT: &str = "1h";
/// Time that an address stays allowed after the last new connection to it.
///
/// dnsmasq adds the addresses of each answer without a timeout. Linux 6.12 and
/// later then renew an address that is in the set with a timeout other than the
/// set's, and leave other addresses unchanged.
pub const RENEWABLE_TIMEOUT: &str = "61m";
/// Maximum number of addresses in a set. Limits the memory for a name whose
/// addresses change often.
const LEARNED_SIZE: u32 = 4096;
/// Time that a denied destination stays in its set, in seconds.
pub const DENIED_SECONDS: u64 = 3600;
/// Maximum number of destinations in a set of denied destinations.
pub const DENIED_SIZE: usize = 1024;

/// Bit of the marks of connections that may reach addresses of the host.
pub const HOST_ACCESS: u32 = 0x4000_0000;
/// Protocols that the mode unrestricted allows. Other protocols are tunnels,
/// such as 6in4, in which IPv6 would pass.
const TRANSPORTS: &str = "{ tcp, udp, udplite, sctp, dccp, icmp, esp, ah }";

const PING: &str = "echo-request";
const PONG: &str = "echo-reply";

/// Placeholder for the verdict of allowing rules until the mark is known.
const ACCEPT: &str = "accept-marked";
/// Like [`ACCEPT`], for rules with an address.
const ACCEPT_ADDRESS: &str = "accept-address";

/// The chains of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chains {
    /// A hash of the content, used in the names of the chains: `p_ID` for
    /// outgoing packets and `r_ID` for replies. A packet that returns from a
    /// chain is not allowed.
    pub id: String,
    /// Conntrack mark of the connections that this policy allowed, without the
    /// bit [`HOST_ACCESS`].
    pub mark: u32,
    /// Commands that add the sets and chains to the table `inet pixels`. The
    /// table must have a chain `refuse`.
    pub text: String,
}

impl Chains {
    /// The marks of the connections that this policy allowed.
    pub fn marks(&self) -> [u32; 2] {
        [self.mark, self.mark | HOST_ACCESS]
    }
}

/// Returns the chains of a policy. `host_set`: the set of the host's addresses,
/// which only rules with an address allow. The connections that such rules allow
/// then have the mark [`HOST_ACCESS`].
pub fn chains(policy: &ResolvedPolicy, host_set: Option<&str>) -> Chains {
    let (mut outgoing, mut replies) = (Vec::new(), Vec::new());
    // Rules with an address come first: they open closed networks.
    for rule in &policy.rules {
        if let Target::Net(net) = &rule.target
            && net.is_v4()
        {
            push_net(&mut outgoing, &mut replies, net, rule.port);
        }
    }
    let private = PRIVATE.iter().filter(|_| !policy.lan);
    let closed: Vec<String> = RESERVED
        .iter()
        .chain(private)
        .map(ToString::to_string)
        .collect();
    let closed = closed.join(", ");
    let closed_set = format!("c_{}", hex(&sha256([&closed])[..6]));
    for set in [Some(closed_set.as_str()), host_set].into_iter().flatten() {
        outgoing.push(format!("ip daddr @{set} jump refuse"));
        replies.push(format!("ip saddr @{set} drop"));
    }
    let sets: BTreeSet<String> = policy.rules.iter().filter_map(learned_set).collect();
    if policy.open {
        for rules in [&mut outgoing, &mut replies] {
            rules.push(format!("meta l4proto {TRANSPORTS} {ACCEPT}"));
        }
    } else if !sets.is_empty() {
        for (rules, icmp) in [(&mut outgoing, PING), (&mut replies, PONG)] {
            rules.push("meta l4proto != { tcp, udp, icmp } return".to_owned());
            rules.push(format!("icmp type != {icmp} return"));
        }
        for rule in &policy.rules {
            push_learned(&mut outgoing, &mut replies, rule);
        }
    }
    let hash = sha256([format!("{sets:?} {outgoing:?} {replies:?}")]);
    let id = hex(&hash[..6]);
    // Low values are reserved for the marks of the surrounding ruleset.
    let mark = u32::from_be_bytes([hash[6], hash[7], hash[8], hash[9]]);
    let mark = (mark | 0x8000_0000) & !HOST_ACCESS;
    let mut text = format!(
        "add set inet pixels {closed_set} {{ type ipv4_addr; flags interval; }}\n\
         add element inet pixels {closed_set} {{ {closed} }}\n"
    );
    for set in sets {
        let _ = writeln!(
            text,
            "add set inet pixels {set} {{ type ipv4_addr; flags dynamic,timeout; \
             timeout {LEARNED_TIMEOUT}; size {LEARNED_SIZE}; }}"
        );
    }
    let address_mark = host_set.map_or(mark, |_| mark | HOST_ACCESS);
    let accept = |mark: u32| format!("ct mark set {mark:#x} accept");
    for (prefix, rules) in [("p", outgoing), ("r", replies)] {
        let rules: Vec<String> = rules
            .iter()
            .map(|rule| rule.replace(ACCEPT, &accept(mark)))
            .map(|rule| rule.replace(ACCEPT_ADDRESS, &accept(address_mark)))
            .collect();
        add_chain(&mut text, &format!("{prefix}_{id}"), "", &rules);
    }
    Chains { id, mark, text }
}

/// Adds the rules for a network: for the first packet of a connection, and for
/// replies after a policy change.
fn push_net(outgoing: &mut Vec<String>, replies: &mut Vec<String>, net: &Cidr, port: Option<u16>) {
    for (rules, address, port_field, icmp) in [
        (outgoing, "daddr", "dport", PING),
        (replies, "saddr", "sport", PONG),
    ] {
        let transport = format!("ip {address} {net} meta l4proto {{ tcp, udp }}");
        match port {
            Some(port) => rules.push(format!(
                "{transport} th {port_field} {port} {ACCEPT_ADDRESS}"
            )),
            None => {
                rules.push(format!("{transport} {ACCEPT_ADDRESS}"));
                rules.push(format!(
                    "ip {address} {net} icmp type {icmp} {ACCEPT_ADDRESS}"
                ));
            }
        }
    }
}

/// Adds the rules for the learned addresses of a name, like [`push_net`]. Only TCP,
/// UDP and ping packets reach these rules: rules that match protocols need an anonymous
/// set each, which doubles the time to load a policy with many names.
fn push_learned(outgoing: &mut Vec<String>, replies: &mut Vec<String>, rule: &Rule) {
    let Some(set) = learned_set(rule) else {
        return;
    };
    let ports = |field: &str| match rule.port {
        Some(port) => format!(" meta l4proto {{ tcp, udp }} th {field} {port}"),
        None => String::new(),
    };
    // Also renews the address.
    outgoing.push(format!(
        "ip daddr @{set}{} update @{set} {{ ip daddr timeout {RENEWABLE_TIMEOUT} }} {ACCEPT}",
        ports("dport")
    ));
    replies.push(format!("ip saddr @{set}{} {ACCEPT}", ports("sport")));
}

/// Name of the set of a rule's learned addresses. `None` for networks.
pub fn learned_set(rule: &Rule) -> Option<String> {
    let name = match &rule.target {
        Target::Host(name) => name.to_string(),
        Target::Subdomains(parent) => format!("*.{parent}"),
        Target::Net(_) => return None,
    };
    // The length of the hash differs from that of earlier versions, whose sets
    // have other flags: a loaded set keeps its flags.
    Some(format!("n_{}", hex(&sha256([name])[..7])))
}

/// Name of the set of the destinations that were denied to a pixel: to the
/// pixel with this address behind a gateway, or in the pixel itself.
pub fn denied_set(pixel: Option<Ipv4Addr>) -> String {
    match pixel {
        Some(address) => format!("d_{:08x}", address.to_bits()),
        None => "denied".to_owned(),
    }
}

/// Adds a set of denied destinations. If the set is full, further destinations
/// are denied without record.
pub fn add_denied_set(text: &mut String, set: &str) {
    let _ = writeln!(
        text,
        "add set inet pixels {set} {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; \
         flags dynamic,timeout; timeout {DENIED_SECONDS}s; size {DENIED_SIZE}; counter; }}"
    );
}

/// Returns the rules that record the destination of a packet in a set.
pub fn record_denial(set: &str) -> [String; 2] {
    let record = |port| format!("update @{set} {{ ip saddr . ip daddr . meta l4proto . {port} }}");
    [
        format!("meta l4proto {{ tcp, udp }} {}", record("th dport")),
        format!("meta l4proto != {{ tcp, udp }} {}", record("0")),
    ]
}

/// Adds the chain `refuse`, which records and rejects packets. `drops` are
/// rules for packets to drop without record or answer. `records` are the rules
/// that record the packet. `reset` is the rule that resets open TCP
/// connections.
pub fn add_refusal(text: &mut String, drops: &[&str], records: &[&str], reset: &str) {
    // Multicast and broadcast packets are not answered.
    let mut rules = vec!["ip daddr { 224.0.0.0/4, 255.255.255.255 } drop"];
    rules.extend(drops);
    rules.extend(records);
    rules.extend([reset, "reject with icmpx admin-prohibited"]);
    add_chain(text, "refuse", "", &rules);
}

/// Adds the chain for DNS queries from the resolvers to the forwarder. The chain
/// drops (UDP) or resets (TCP) all messages except queries with one question and
/// without answer and authority records: dnsmasq finds no name in other messages, so
/// a resolver forwards them although the policy denies the name. In queries of
/// restricted policies, the chain sets the flags to those of a standard recursive
/// query and the count of additional records to 0.
/// The forwarder then ignores everything after the question, where a pixel can hide
/// data. `port`: the port of the forwarder.
///
/// Over TCP, dnsmasq writes the two length bytes and the query in one call, so the
/// DNS header is at the start of a segment. `@ih` needs Linux 5.16.
pub fn add_forwarder_chain(text: &mut String, port: u16) {
    let mut rules = Vec::new();
    for (protocol, header, base, refuse) in [
        ("udp", 64, "@th", "drop"),
        ("tcp", 16, "@ih", "reject with tcp reset"),
    ] {
        let field = |offset: u32, bits: u32| format!("{base},{},{bits}", header + offset);
        let query = format!("oifname \"lo\" {protocol} dport {port}");
        let (response_and_opcode, flags) = (field(16, 5), field(16, 16));
        let (counts, additional) = (field(32, 48), field(80, 16));
        rules.extend([
            format!("{query} {response_and_opcode} != 0x0 {refuse}"),
            format!("{query} {counts} != 0x000100000000 {refuse}"),
            format!(
                "{query} ip daddr {RESTRICTED_FORWARDER} {flags} set 0x0100 {additional} set 0x0"
            ),
        ]);
    }
    let hook = "filter hook output priority mangle; policy accept";
    add_chain(text, "to_forwarder", hook, &rules);
}

/// Adds a chain with these rules, or replaces the rules of a chain. `hook`:
/// type, hook, priority and policy of a base chain; empty for a regular chain.
pub fn add_chain(text: &mut String, name: &str, hook: &str, rules: &[impl Display]) {
    let _ = if hook.is_empty() {
        writeln!(text, "add chain inet pixels {name}")
    } else {
        writeln!(text, "add chain inet pixels {name} {{ type {hook}; }}")
    };
    let _ = writeln!(text, "flush chain inet pixels {name}");
    for rule in rules {
        let _ = writeln!(text, "add rule inet pixels {name} {rule}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains_of(rules: &[&str]) -> Chains {
        chains(&ResolvedPolicy::allowing(rules), None)
    }

    #[test]
    fn private_ranges_need_address_rule() {
        let text = chains_of(&["10.1.2.3:22", "a.example"]).text;
        let at = |part: &str| text.find(part).unwrap();
        let closed = text
            .lines()
            .find(|line| line.contains("10.0.0.0/8"))
            .unwrap();
        let set = closed.split(' ').nth(4).unwrap();
        let refusal = format!("ip daddr @{set} jump refuse");
        assert!(at("ip daddr 10.1.2.3 ") < at(&refusal));
        assert!(at(&refusal) < at("ip daddr @n_"));
    }

    #[test]
    fn only_address_rules_mark_access_to_the_host() {
        let policy = ResolvedPolicy::allowing(&["10.1.2.3:22", "a.example"]);
        let chains = chains(&policy, Some("host"));
        let [named, address] = chains
            .marks()
            .map(|mark| format!("ct mark set {mark:#x} accept"));
        for line in chains.text.lines().filter(|line| line.ends_with("accept")) {
            let expected = if line.contains("10.1.2.3") {
                &address
            } else {
                &named
            };
            assert!(line.ends_with(expected), "{line}");
        }
    }

    #[test]
    fn chain_id_is_content_hash() {
        let first = chains_of(&["a.example", "b.example"]);
        let same = chains_of(&["b.example", "a.example"]);
        let other = chains_of(&["a.example:443", "b.example"]);
        let closed = chains(
            &ResolvedPolicy::allowing(&["a.example", "b.example"]),
            Some("host"),
        );
        assert_eq!(first, same);
        assert_ne!(first.id, other.id);
        assert_ne!(first.mark, other.mark);
        assert_ne!(first.id, closed.id);
        // The nftables set of a host name does not depend on other rules.
        let set = |chains: &Chains| {
            let mut lines = chains.text.lines();
            let set = lines.find(|line| line.starts_with("add set inet pixels n_"));
            set.unwrap().to_owned()
        };
        assert_eq!(set(&first), set(&other));
    }

    #[test]
    fn ipv6_rules_are_not_rendered() {
        let mut policy = ResolvedPolicy::allowing(&["2001:db8::/32"]);
        policy.open = true;
        assert!(!chains(&policy, None).text.contains("2001"));
    }
}
