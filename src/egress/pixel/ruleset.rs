//! The packet filter of one machine around the chains of its policy.
//!
//! Everything is in one table of our own, and loading it again replaces what
//! it says in one transaction: what resolvers have learned and connections
//! that are still allowed stay.

use std::fmt::Write as _;

use crate::egress::render::Chains;

/// Privileged, so that nobody else can sit there while the resolver restarts.
pub const PORT: u16 = 553;
/// The one user whose queries leave the machine.
pub const RESOLVER: &str = "pixels-dns";
/// Marks connections that others opened to the pixel.
const INBOUND: u32 = 1;
/// Marks the resolver's own.
const ASKED: u32 = 2;
/// Marks the connection by which somebody put the policy in, which was there
/// before it.
const ENTERED: u32 = 3;
/// As the log reads it.
const REMEMBER: &str = "1h";
const LOG_SIZE: u32 = 65_535;
/// Opens nothing.
const GOES_ON: &str = "tcp flags & syn == 0";
/// Bridges of containers in the pixel. What stays on one of them goes nowhere.
const NESTED: [&str; 7] = [
    "docker*", "br-*", "podman*", "cni*", "lxdbr*", "incusbr*", "virbr*",
];

pub fn ruleset(policy: &Chains) -> String {
    let mut text = String::from("add table inet pixels\n");
    let _ = writeln!(
        text,
        "add set inet pixels denied {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; \
         flags dynamic,timeout; timeout {REMEMBER}; size {LOG_SIZE}; counter; }}\n\
         add set inet pixels entered {{ type ipv4_addr . inet_service . ipv4_addr . inet_service; \
         flags timeout; }}\n\
         add chain inet pixels refuse"
    );
    text.push_str(&policy.text);
    refuse(&mut text);
    resolve(&mut text);
    outgoing(&mut text, policy);
    incoming(&mut text, policy);
    forwarding(&mut text, policy);
    text
}

fn chain(text: &mut String, name: &str, hook: &str, lines: &[String]) {
    let _ = if hook.is_empty() {
        writeln!(text, "add chain inet pixels {name}")
    } else {
        writeln!(text, "add chain inet pixels {name} {{ type {hook}; }}")
    };
    let _ = writeln!(text, "flush chain inet pixels {name}");
    for line in lines {
        let _ = writeln!(text, "add rule inet pixels {name} {line}");
    }
}

fn refuse(text: &mut String) {
    let lines = [
        // Nobody could be told, and nobody asks.
        "ip daddr { 224.0.0.0/4, 255.255.255.255 } drop",
        "meta l4proto 58 drop",
        "meta l4proto { tcp, udp } update @denied { ip saddr . ip daddr . meta l4proto . th dport }",
        "meta l4proto icmp update @denied { ip saddr . ip daddr . meta l4proto . 0 }",
        // A connection that was open is cut; one that begins is told why.
        "tcp flags & (syn | ack) != syn reject with tcp reset",
        "reject with icmpx admin-prohibited",
    ];
    chain(text, "refuse", "", &lines.map(str::to_owned));
}

/// Whoever asks whatever server is answered by the policy's resolver.
fn resolve(text: &mut String) {
    let elsewhere = "meta nfproto ipv4 fib daddr type != local meta l4proto { tcp, udp } \
                     th dport 53";
    chain(
        text,
        "resolve_own",
        "nat hook output priority -100; policy accept",
        &[format!(
            "meta skuid != \"{RESOLVER}\" {elsewhere} redirect to :{PORT}"
        )],
    );
    chain(
        text,
        "resolve_nested",
        "nat hook prerouting priority dstnat; policy accept",
        &[format!("{elsewhere} redirect to :{PORT}")],
    );
}

/// A connection is known by the mark of the policy that allowed it: one that
/// was allowed by an earlier policy is judged again by the present one.
fn outgoing(text: &mut String, policy: &Chains) {
    let Chains { id, mark, .. } = policy;
    let mut lines = vec![
        "oifname \"lo\" accept".to_owned(),
        // Of what was redirected the interface is still the old one here.
        "ip daddr 127.0.0.0/8 accept".to_owned(),
        "meta nfproto ipv6 jump refuse".to_owned(),
        // The machine's own lease.
        "meta skuid < 1000 udp sport 68 udp dport 67 accept".to_owned(),
    ];
    lines.extend(NESTED.map(|bridge| format!("oifname \"{bridge}\" accept")));
    lines.extend([
        // What this filter itself tells a container it refuses something to.
        "ct state related icmp type destination-unreachable accept".to_owned(),
        "ct state related tcp flags & rst == rst accept".to_owned(),
        format!("{GOES_ON} ct mark {ENTERED:#x} accept"),
        format!(
            "ip daddr . tcp dport . ip saddr . tcp sport @entered {GOES_ON} \
             ct mark set {ENTERED:#x} accept"
        ),
        format!("ct direction reply ct state established,related ct mark {INBOUND:#x} accept"),
        format!("ct direction original ct state established,related ct mark {mark:#x} accept"),
        format!(
            "meta skuid \"{RESOLVER}\" meta l4proto {{ tcp, udp }} th dport 53 \
             ct mark set {ASKED:#x} accept"
        ),
        format!("ct direction original jump p_{id}"),
        "jump refuse".to_owned(),
    ]);
    let hook = "filter hook output priority filter; policy drop";
    chain(text, "outgoing", hook, &lines);
}

/// Others may open TCP connections to the pixel, and ping it. What comes in the
/// middle of a connection nobody knows is none of these: it may belong to one
/// that was open before the policy. The one by which the policy comes in is
/// known: it is named in `entered` for a moment, in which its packets mark it.
fn incoming(text: &mut String, policy: &Chains) {
    let Chains { id, mark, .. } = policy;
    let mut lines = vec!["iifname \"lo\" accept".to_owned()];
    // Only queries that were meant for somebody else and redirected.
    lines.push(format!(
        "meta l4proto {{ tcp, udp }} th dport {PORT} ct direction original ct status dnat \
         ct mark set {INBOUND:#x} accept"
    ));
    lines.push(format!("meta l4proto {{ tcp, udp }} th dport {PORT} drop"));
    lines.push("meta nfproto ipv6 drop".to_owned());
    lines.extend(NESTED.map(|bridge| format!("iifname \"{bridge}\" accept")));
    lines.extend([
        "udp sport 67 udp dport 68 accept".to_owned(),
        format!("{GOES_ON} ct mark {ENTERED:#x} accept"),
        format!(
            "ip saddr . tcp sport . ip daddr . tcp dport @entered {GOES_ON} \
             ct mark set {ENTERED:#x} accept"
        ),
        format!(
            "ct direction reply ct state established,related ct mark {{ {mark:#x}, {ASKED:#x} }} accept"
        ),
        format!("ct direction reply ct state established,related jump r_{id}"),
        format!("ct direction original ct state established,related ct mark {INBOUND:#x} accept"),
        format!(
            "ct direction original ct state new tcp flags & (fin | syn | rst | ack) == syn \
             ct mark set {INBOUND:#x} accept"
        ),
        format!(
            "ct direction original ct state new icmp type echo-request \
             ct mark set {INBOUND:#x} accept"
        ),
    ]);
    let hook = "filter hook input priority filter; policy drop";
    chain(text, "incoming", hook, &lines);
}

/// Containers in the pixel are under its policy. A port of theirs that the
/// pixel publishes can be reached like one of its own.
fn forwarding(text: &mut String, policy: &Chains) {
    let Chains { id, mark, .. } = policy;
    let mut lines = vec!["meta nfproto ipv6 jump refuse".to_owned()];
    lines.extend(NESTED.map(|bridge| format!("iifname \"{bridge}\" oifname \"{bridge}\" accept")));
    lines.extend([
        format!("ct state established,related ct mark {{ {INBOUND:#x}, {mark:#x} }} accept"),
        format!(
            "ct direction original ct state new ct status dnat \
             tcp flags & (fin | syn | rst | ack) == syn ct mark set {INBOUND:#x} accept"
        ),
        format!("ct direction original jump p_{id}"),
        format!("ct direction reply ct state established,related jump r_{id}"),
        "jump refuse".to_owned(),
    ]);
    let hook = "filter hook forward priority filter; policy drop";
    chain(text, "forwarding", hook, &lines);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::policy::ResolvedPolicy;
    use crate::egress::render;

    fn text(entries: &[&str]) -> String {
        let policy = ResolvedPolicy {
            open: false,
            lan: false,
            entries: entries.iter().map(|text| text.parse().unwrap()).collect(),
        };
        ruleset(&render::chains(&policy, &[]))
    }

    #[test]
    fn every_hook_refuses_what_no_rule_speaks_of() {
        let text = text(&["a.example"]);
        assert_eq!(text.matches("type filter hook").count(), 3);
        assert_eq!(text.matches("policy drop").count(), 3);
        for end in ["outgoing jump refuse", "forwarding jump refuse"] {
            assert!(text.contains(&format!("add rule inet pixels {end}\n")));
        }
        let incoming = text.lines().rfind(|line| line.contains(" incoming "));
        assert!(incoming.unwrap().contains("echo-request"), "{incoming:?}");
    }

    #[test]
    fn only_our_own_table_is_touched() {
        for line in text(&["a.example", "192.0.2.0/24:22"]).lines() {
            let mut words = line.split(' ');
            let verb = words.next().unwrap();
            assert!(["add", "flush"].contains(&verb), "{line}");
            let object = words.next().unwrap();
            assert!(verb != "flush" || object == "chain", "{line}");
            let table: Vec<&str> = words.take(2).collect();
            assert_eq!(table, ["inet", "pixels"], "{line}");
        }
    }

    #[test]
    fn ipv6_leaves_by_no_rule() {
        let text = text(&["2001:db8::/32", "a.example"]);
        assert!(!text.contains("2001"));
        for chain in ["outgoing", "forwarding"] {
            let rule = format!("add rule inet pixels {chain} meta nfproto ipv6 jump refuse\n");
            let at = text.find(&rule).unwrap();
            assert!(
                at < text
                    .find(&format!("pixels {chain} ct direction"))
                    .unwrap_or(usize::MAX)
            );
        }
    }
}
