//! The packet filter of a pixel, except the chains of its policy.
//!
//! All rules are in a separate table. Loading the ruleset again replaces the
//! rules in one transaction and keeps learned addresses and allowed
//! connections.

use std::fmt::Write as _;

use crate::egress::lease;
use crate::egress::nftables::{
    Chains, add_chain, add_denied_set, add_forwarder_chain, add_refusal, denied_set, record_denial,
};

/// Port of the resolver. The port is privileged, so that no user's program can
/// bind it while the resolver restarts.
pub const PORT: u16 = 553;
/// Port of the resolver during a provisioning lease.
pub const LEASE_PORT: u16 = 552;
/// Port of the forwarder.
pub const FORWARDER_PORT: u16 = 551;
/// User of the resolvers and their forwarder. Only DNS queries of this user leave
/// the pixel.
pub const RESOLVER: &str = "pixels-dns";
/// Mark of connections to the pixel.
const INBOUND: u32 = 1;
/// Mark of the forwarder's queries to name servers, and conntrack zone of packets of
/// the resolver user.
const QUERY: u32 = 2;
/// Mark of the connection over which the policy was applied. It is older than
/// the policy and must not be reset.
const CONTROL: u32 = 3;
/// The only element of the set `provisioning`.
pub const LEASE_KEY: &str = "ipv4";
/// Matches the packets of a pixel with a provisioning lease.
const LEASED: &str = "meta nfproto @provisioning";
/// Matches TCP packets that do not open a connection.
const NOT_SYN: &str = "tcp flags & syn == 0";
/// Matches TCP packets that open a connection.
const SYN: &str = "tcp flags & (fin | syn | rst | ack) == syn";
/// Container bridges in the pixel. Packets between containers on the same
/// bridge do not leave the pixel.
const NESTED: [&str; 7] = [
    "docker*", "br-*", "podman*", "cni*", "lxdbr*", "incusbr*", "virbr*",
];

pub fn ruleset(policy: &Chains) -> String {
    let mut text = String::from("add table inet pixels\n");
    let denied = denied_set(None);
    add_denied_set(&mut text, &denied);
    let _ = writeln!(
        text,
        "add set inet pixels entered {{ type ipv4_addr . inet_service . ipv4_addr . inet_service; \
         flags timeout; }}\n\
         add set inet pixels provisioning {{ type nf_proto; flags timeout; }}\n\
         flush set inet pixels provisioning\n\
         add chain inet pixels refuse"
    );
    // A change of the policy ends a lease.
    for chain in ["provisioning_out", "provisioning_in"] {
        add_chain(&mut text, chain, "", &[""; 0]);
    }
    text.push_str(&policy.text);
    // Reset open connections; reject new ones with the reason.
    let reset = "tcp flags & (syn | ack) != syn reject with tcp reset";
    let [ports, others] = record_denial(&denied);
    let records = [ports.as_str(), others.as_str()];
    add_refusal(&mut text, &["meta l4proto 58 drop"], &records, reset);
    add_dns_redirection(&mut text);
    add_forwarder_chain(&mut text, FORWARDER_PORT);
    add_output(&mut text, policy);
    add_input(&mut text, policy);
    add_forwarding(&mut text, policy);
    text
}

/// Returns the commands that begin a provisioning lease or restart its time. The
/// chains have no effect after the lease has ended.
pub fn lease_rules(policy: &Chains) -> String {
    let Chains { id, mark, text } = policy;
    let mut text = text.clone();
    for (chain, direction, prefix) in [
        ("provisioning_out", "original", "p"),
        ("provisioning_in", "reply", "r"),
    ] {
        let rules = [
            format!("ct state established,related ct mark {mark:#x} accept"),
            format!("ct direction {direction} jump {prefix}_{id}"),
        ];
        add_chain(&mut text, chain, "", &rules);
    }
    text + &lease::begin(LEASE_KEY)
}

/// Redirects all DNS queries to the resolver of the policy.
fn add_dns_redirection(text: &mut String) {
    let to_other_host = "meta nfproto ipv4 fib daddr type != local meta l4proto { tcp, udp } \
                         th dport 53";
    let own = format!("meta skuid != \"{RESOLVER}\"");
    add_chain(
        text,
        "resolve_own",
        "nat hook output priority -100; policy accept",
        &[
            format!("{LEASED} {own} {to_other_host} redirect to :{LEASE_PORT}"),
            // Queries of systemd-resolved.
            format!(
                "{LEASED} {own} ip daddr 127.0.0.0/8 meta l4proto {{ tcp, udp }} \
                 th dport {PORT} redirect to :{LEASE_PORT}"
            ),
            format!("{own} {to_other_host} redirect to :{PORT}"),
        ],
    );
    // In the same zone, a query of the forwarder with the source port of a user's
    // redirected flow would match that flow and go to the resolver, in a loop.
    add_chain(
        text,
        "separate_queries",
        "filter hook output priority raw; policy accept",
        &[format!(
            "meta skuid \"{RESOLVER}\" ct original zone set {QUERY}"
        )],
    );
    add_chain(
        text,
        "resolve_nested",
        "nat hook prerouting priority dstnat; policy accept",
        &[
            format!("{LEASED} {to_other_host} redirect to :{LEASE_PORT}"),
            format!("{to_other_host} redirect to :{PORT}"),
        ],
    );
}

/// Adds the rules for packets from the pixel. A connection has the mark of the
/// policy that allowed it; after a change, the new policy checks it again.
fn add_output(text: &mut String, policy: &Chains) {
    let forwarder =
        format!("fib daddr type local meta l4proto {{ tcp, udp }} th dport {FORWARDER_PORT}");
    let Chains { id, mark, .. } = policy;
    let mut rules = vec![
        format!(
            "fib daddr type local meta l4proto {{ tcp, udp }} th dport {LEASE_PORT} \
             meta nfproto != @provisioning drop"
        ),
        format!("{forwarder} meta skuid \"{RESOLVER}\" accept"),
        format!("{forwarder} drop"),
        "oifname \"lo\" accept".to_owned(),
        // Redirected packets still have their original output interface here.
        "ip daddr 127.0.0.0/8 accept".to_owned(),
        "meta nfproto ipv6 jump refuse".to_owned(),
        // The DHCP lease of the pixel.
        "meta skuid < 1000 udp sport 68 udp dport 67 accept".to_owned(),
    ];
    rules.extend(NESTED.map(|bridge| format!("oifname \"{bridge}\" accept")));
    rules.extend([
        // Rejections that this filter sends for packets from containers.
        "ct state related icmp type destination-unreachable accept".to_owned(),
        "ct state related tcp flags & rst == rst accept".to_owned(),
        format!("{NOT_SYN} ct mark {CONTROL:#x} accept"),
        format!(
            "ip daddr . tcp dport . ip saddr . tcp sport @entered {NOT_SYN} \
             ct mark set {CONTROL:#x} accept"
        ),
        format!("ct direction reply ct state established,related ct mark {INBOUND:#x} accept"),
        format!("ct direction original ct state established,related ct mark {mark:#x} accept"),
        format!(
            "meta skuid \"{RESOLVER}\" meta l4proto {{ tcp, udp }} th dport 53 \
             ct mark set {QUERY:#x} accept"
        ),
        format!("ct direction original jump p_{id}"),
        format!("{LEASED} jump provisioning_out"),
        "jump refuse".to_owned(),
    ]);
    let hook = "filter hook output priority filter; policy drop";
    add_chain(text, "outgoing", hook, &rules);
}

/// Adds the rules for packets to the pixel. Other hosts may open TCP
/// connections and ping. Other packets of unknown connections are dropped,
/// because the connection may be older than the policy. The exception is the
/// connection over which the policy is applied: `load.sh` adds it to the set
/// `entered` for a minute, and its packets then get the mark.
fn add_input(text: &mut String, policy: &Chains) {
    let Chains { id, mark, .. } = policy;
    let mut rules = vec![
        "iifname \"lo\" accept".to_owned(),
        // Only queries that were redirected from another host.
        format!(
            "meta l4proto {{ tcp, udp }} th dport {PORT} ct direction original ct status dnat \
             ct mark set {INBOUND:#x} accept"
        ),
        format!(
            "{LEASED} meta l4proto {{ tcp, udp }} th dport {LEASE_PORT} ct direction original \
             ct status dnat ct mark set {INBOUND:#x} accept"
        ),
        format!(
            "meta l4proto {{ tcp, udp }} th dport \
             {{ {FORWARDER_PORT}, {PORT}, {LEASE_PORT} }} drop"
        ),
        "meta nfproto ipv6 drop".to_owned(),
    ];
    rules.extend(NESTED.map(|bridge| format!("iifname \"{bridge}\" accept")));
    rules.extend([
        "udp sport 67 udp dport 68 accept".to_owned(),
        format!("{NOT_SYN} ct mark {CONTROL:#x} accept"),
        format!(
            "ip saddr . tcp sport . ip daddr . tcp dport @entered {NOT_SYN} \
             ct mark set {CONTROL:#x} accept"
        ),
        format!(
            "ct direction reply ct state established,related ct mark {{ {mark:#x}, {QUERY:#x} }} accept"
        ),
        format!("ct direction reply ct state established,related jump r_{id}"),
        format!("ct direction reply {LEASED} jump provisioning_in"),
        format!("ct direction original ct state established,related ct mark {INBOUND:#x} accept"),
        format!("ct direction original ct state new {SYN} ct mark set {INBOUND:#x} accept"),
        format!(
            "ct direction original ct state new icmp type echo-request \
             ct mark set {INBOUND:#x} accept"
        ),
    ]);
    let hook = "filter hook input priority filter; policy drop";
    add_chain(text, "incoming", hook, &rules);
}

/// Adds the rules for containers in the pixel: the pixel's policy applies.
/// Other hosts can reach container ports that the pixel publishes.
fn add_forwarding(text: &mut String, policy: &Chains) {
    let Chains { id, mark, .. } = policy;
    let mut rules = vec!["meta nfproto ipv6 jump refuse".to_owned()];
    rules.extend(NESTED.map(|bridge| format!("iifname \"{bridge}\" oifname \"{bridge}\" accept")));
    rules.extend([
        format!("ct state established,related ct mark {{ {INBOUND:#x}, {mark:#x} }} accept"),
        format!(
            "ct direction original ct state new ct status dnat {SYN} \
             ct mark set {INBOUND:#x} accept"
        ),
        format!("ct direction original jump p_{id}"),
        format!("ct direction reply ct state established,related jump r_{id}"),
        format!("{LEASED} ct direction original jump provisioning_out"),
        format!("{LEASED} ct direction reply jump provisioning_in"),
        "jump refuse".to_owned(),
    ]);
    let hook = "filter hook forward priority filter; policy drop";
    add_chain(text, "forwarding", hook, &rules);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::egress::nftables;
    use crate::egress::policy::ResolvedPolicy;

    fn text(rules: &[&str]) -> String {
        ruleset(&nftables::chains(&ResolvedPolicy::allowing(rules), None))
    }

    #[derive(Default)]
    struct ParsedChain<'a> {
        /// `TYPE hook HOOK priority PRIORITY; policy POLICY` of a base chain.
        hook: Option<&'a str>,
        rules: Vec<&'a str>,
    }

    /// Fails on lines that change anything except the sets and chains of table
    /// `inet pixels`.
    fn parse(text: &str) -> BTreeMap<&str, ParsedChain<'_>> {
        let mut chains = BTreeMap::<&str, ParsedChain<'_>>::new();
        for line in text.lines() {
            let (verb, object) = line.split_once(" inet pixels").unwrap();
            assert!(object.is_empty() || object.starts_with(' '), "{line}");
            let (name, rest) = object.trim().split_once(' ').unwrap_or((object.trim(), ""));
            match verb {
                "add chain" => {
                    let hook = rest.strip_prefix("{ type ");
                    let hook = hook.map(|hook| hook.strip_suffix("; }").unwrap());
                    chains.entry(name).or_default().hook = hook;
                }
                "flush chain" => chains.get_mut(name).unwrap().rules.clear(),
                "add rule" => chains.get_mut(name).unwrap().rules.push(rest),
                "add table" | "add set" | "add element" | "flush set" => {}
                _ => panic!("{line}"),
            }
        }
        chains
    }

    #[test]
    fn filter_hooks_default_to_drop() {
        let text = text(&["a.example", "192.0.2.0/24:22"]);
        let chains = parse(&text);
        let filters: BTreeMap<&str, &str> = chains
            .iter()
            .filter_map(|(name, chain)| Some((*name, chain.hook?.strip_prefix("filter hook ")?)))
            .filter(|(name, _)| !["to_forwarder", "separate_queries"].contains(name))
            .collect();
        let expected = [
            ("forwarding", "forward priority filter; policy drop"),
            ("incoming", "input priority filter; policy drop"),
            ("outgoing", "output priority filter; policy drop"),
        ];
        assert_eq!(filters, expected.into());
        for chain in ["outgoing", "forwarding"] {
            assert_eq!(chains[chain].rules.last(), Some(&"jump refuse"));
        }
        for rule in &chains["incoming"].rules {
            let unconditional = *rule == "accept" || rule.starts_with("jump ");
            assert!(!unconditional, "{rule}");
        }
        let last = chains["incoming"].rules.last().unwrap();
        assert!(last.contains("icmp type echo-request"), "{last}");
    }

    #[test]
    fn ipv6_is_refused_before_any_other_rule() {
        let text = text(&["2001:db8::/32", "a.example"]);
        assert!(!text.contains("2001"));
        let chains = parse(&text);
        let local = [
            "fib daddr type local meta l4proto { tcp, udp } th dport 551 meta skuid \"pixels-dns\" \
             accept",
            "oifname \"lo\" accept",
            "ip daddr 127.0.0.0/8 accept",
        ];
        for (chain, before) in [("outgoing", &local[..]), ("forwarding", &[])] {
            let rules = &chains[chain].rules;
            let refusal = "meta nfproto ipv6 jump refuse";
            let at = rules.iter().position(|rule| *rule == refusal).unwrap();
            let accepting = |rule: &&&str| !rule.ends_with(" drop");
            let earlier: Vec<&str> = rules[..at].iter().filter(accepting).copied().collect();
            assert_eq!(earlier, before, "{chain}");
        }
    }
}
