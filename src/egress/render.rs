//! What enforces a policy: chains for nftables and a configuration for
//! dnsmasq. Both come from typed values only and say the same.
//!
//! Names are allowed by the addresses a resolver has learned for them: each
//! name has a set, and every answer the resolver gives puts its addresses
//! there, for longer than a client may keep the answer. A policy refers to the
//! sets of its own names only, and a name keeps its set when the rest of the
//! policy changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use ring::digest;

use super::cidr::Cidr;
use super::policy::ResolvedPolicy;
use super::rule::{Domain, Rule, Target};

/// Seconds a client may keep an answer. A gateway that lost what it had learned
/// refuses what is asked for by such an answer.
const TTL: u32 = 30;
/// How long a learned address may be connected to after the last answer.
const LEARNED: &str = "1h";
/// Addresses in one set; a name that answers with ever new ones fills no memory.
const LEARNED_SIZE: u32 = 4096;

/// Never meant by "everything": this machine, links, groups.
const NEVER: [&str; 5] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// The networks around the host.
const PRIVATE: [&str; 4] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
];

/// Whether an address is let through by an entry that names it, and by nothing else.
pub fn is_private(address: IpAddr) -> bool {
    let within = |nets: &[&str]| {
        nets.iter()
            .filter_map(|net| net.parse::<Cidr>().ok())
            .any(|net| net.contains(address))
    };
    address.is_ipv6() || within(&NEVER) || within(&PRIVATE)
}

/// A policy's part of a packet filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chains {
    /// The chains are `p_ID`, for packets on their way out, and `r_ID`, for
    /// answers. A packet that comes back from them is not allowed.
    pub id: String,
    /// What connections allowed by this policy are marked with.
    pub mark: u32,
    /// Adds the sets and chains to the table `inet pixels`, which has a chain `refuse`.
    pub text: String,
}

/// `forbidden`: further networks that only an entry opens, such as the host's
/// own addresses.
pub fn chains(policy: &ResolvedPolicy, forbidden: &[Cidr]) -> Chains {
    let (mut sets, mut out, mut back) = (BTreeSet::new(), Vec::new(), Vec::new());
    // Entries with an address come first: they open what is closed below.
    for entry in &policy.entries {
        if let Target::Net(net) = &entry.target
            && net.is_v4()
        {
            push_accept(&mut out, &mut back, &net.to_string(), entry.port);
        }
    }
    let mut closed: Vec<String> = NEVER.iter().map(|net| (*net).to_owned()).collect();
    if !policy.lan {
        closed.extend(PRIVATE.iter().map(|net| (*net).to_owned()));
    }
    for net in forbidden.iter().filter(|net| net.is_v4()) {
        closed.push(net.to_string());
    }
    for net in closed {
        out.push(format!("ip daddr {net} jump refuse"));
        back.push(format!("ip saddr {net} drop"));
    }
    for entry in &policy.entries {
        if let Some(set) = set_of(entry) {
            push_accept(&mut out, &mut back, &format!("@{set}"), entry.port);
            sets.insert(set);
        }
    }
    if policy.open {
        out.push(ACCEPT.into());
        back.push(ACCEPT.into());
    }
    let hash = hash(&format!("{out:?} {back:?}"));
    let id = hex(&hash[..6]);
    // The low values are for whoever has the table.
    let mark = u32::from_be_bytes([hash[6], hash[7], hash[8], hash[9]]) | 0x8000_0000;
    let mut text = String::new();
    for set in sets {
        let _ = writeln!(
            text,
            "add set inet pixels {set} {{ type ipv4_addr; flags timeout; timeout {LEARNED}; \
             size {LEARNED_SIZE}; }}"
        );
    }
    for (chain, rules) in [(format!("p_{id}"), out), (format!("r_{id}"), back)] {
        let _ = writeln!(text, "add chain inet pixels {chain}");
        let _ = writeln!(text, "flush chain inet pixels {chain}");
        for rule in rules {
            let rule = rule.replace(ACCEPT, &format!("ct mark set {mark:#x} accept"));
            let _ = writeln!(text, "add rule inet pixels {chain} {rule}");
        }
    }
    Chains { id, mark, text }
}

/// Stands for the verdict until the mark is known.
const ACCEPT: &str = "accept-marked";

fn push_accept(out: &mut Vec<String>, back: &mut Vec<String>, whom: &str, port: Option<u16>) {
    match port {
        Some(port) => {
            out.push(format!(
                "ip daddr {whom} meta l4proto {{ tcp, udp }} th dport {port} {ACCEPT}"
            ));
            back.push(format!(
                "ip saddr {whom} meta l4proto {{ tcp, udp }} th sport {port} {ACCEPT}"
            ));
        }
        None => {
            for (rules, way, ping) in [(out, "daddr", "request"), (back, "saddr", "reply")] {
                rules.push(format!(
                    "ip {way} {whom} meta l4proto {{ tcp, udp }} {ACCEPT}"
                ));
                rules.push(format!("ip {way} {whom} icmp type echo-{ping} {ACCEPT}"));
            }
        }
    }
}

/// The set of addresses learned for an entry with a name.
fn set_of(entry: &Rule) -> Option<String> {
    let name = match &entry.target {
        Target::Host(name) => name.to_string(),
        Target::Subdomains(below) => format!("*.{below}"),
        Target::Net(_) => return None,
    };
    Some(format!("n_{}", hex(&hash(&name)[..6])))
}

/// Where a resolver listens and whom it asks.
#[derive(Debug, Clone)]
pub struct ResolverListen<'a> {
    /// `None`: on every address of its machine.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
    /// When there is none, servers are written as `#`, and whoever starts the
    /// resolver puts those of its machine there.
    pub upstream: &'a [Ipv4Addr],
}

/// The configuration of the resolver of a policy. What the policy does not
/// name does not exist for it, labels below an allowed host included.
pub fn resolver(policy: &ResolvedPolicy, listen: &ResolverListen<'_>) -> String {
    let mut text = format!(
        "port={}\n\
         bind-dynamic\n\
         no-resolv\n\
         no-hosts\n\
         no-poll\n\
         cache-size=0\n\
         max-ttl={TTL}\n\
         filter-AAAA\n\
         dns-forward-max=1000\n\
         log-queries=extra\n\
         log-async=100\n",
        listen.port
    );
    if let Some(address) = listen.address {
        let _ = writeln!(text, "listen-address={address}");
    }
    let upstream: Vec<String> = match listen.upstream {
        [] => vec!["#".to_owned()],
        servers => servers.iter().map(ToString::to_string).collect(),
    };
    if policy.open {
        for server in &upstream {
            let _ = writeln!(text, "server={server}");
        }
        return text;
    }
    text.push_str("address=/#/\n");
    let named: Vec<&Rule> = policy
        .entries
        .iter()
        .filter(|e| set_of(e).is_some())
        .collect();
    // Every name there is something to say about, with what is allowed of it.
    let mut names: BTreeMap<&Domain, (bool, bool)> = BTreeMap::new();
    for entry in &named {
        match &entry.target {
            Target::Host(name) => names.entry(name).or_default().0 = true,
            Target::Subdomains(below) => names.entry(below).or_default().1 = true,
            Target::Net(_) => {}
        }
    }
    for (name, (itself, below)) in &names {
        // A wider entry may allow what this one does not speak of.
        let below = *below || is_covered(&named, |below| name.is_within(below));
        let itself = *itself || is_covered(&named, |below| *name != below && name.is_within(below));
        for (pattern, allowed) in [(name.to_string(), itself), (format!("*.{name}"), below)] {
            if allowed {
                for server in &upstream {
                    let _ = writeln!(text, "server=/{pattern}/{server}");
                }
            } else {
                let _ = writeln!(text, "local=/{pattern}/");
            }
        }
        let sets: BTreeSet<String> = named
            .iter()
            .filter(|entry| match &entry.target {
                Target::Host(host) => host == *name,
                Target::Subdomains(below) => name.is_within(below),
                Target::Net(_) => false,
            })
            .filter_map(|entry| set_of(entry))
            .map(|set| format!("4#inet#pixels#{set}"))
            .collect();
        let sets: Vec<String> = sets.into_iter().collect();
        let _ = writeln!(text, "nftset=/{name}/{}", sets.join(","));
    }
    text
}

fn is_covered(named: &[&Rule], test: impl Fn(&Domain) -> bool) -> bool {
    named.iter().any(|entry| match &entry.target {
        Target::Subdomains(below) => test(below),
        _ => false,
    })
}

fn hash(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(open: bool, entries: &[&str]) -> ResolvedPolicy {
        ResolvedPolicy {
            open,
            lan: false,
            entries: entries.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn conf(entries: &[&str]) -> String {
        resolver(
            &policy(false, entries),
            &ResolverListen {
                address: Some(Ipv4Addr::new(10, 98, 0, 1)),
                port: 20_000,
                upstream: &[Ipv4Addr::new(192, 0, 2, 53)],
            },
        )
    }

    #[test]
    fn a_host_is_asked_for_and_nothing_below_it() {
        let conf = conf(&["a.example", "*.b.example"]);
        let has = |line: &str| conf.lines().any(|l| l == line);
        assert!(has("address=/#/"));
        assert!(has("server=/a.example/192.0.2.53"));
        assert!(has("local=/*.a.example/"));
        assert!(has("server=/*.b.example/192.0.2.53"));
        assert!(has("local=/b.example/"));
    }

    #[test]
    fn a_host_below_a_star_is_in_the_sets_of_both() {
        let conf = conf(&["*.b.example:443", "x.b.example:22"]);
        let line = conf
            .lines()
            .find(|l| l.starts_with("nftset=/x.b.example/"))
            .unwrap();
        assert_eq!(line.matches("n_").count(), 2);
        assert!(conf.contains("server=/*.x.b.example/192.0.2.53"));
    }

    #[test]
    fn addresses_open_what_is_closed_and_names_do_not() {
        let text = chains(&policy(false, &["10.1.2.3:22", "a.example"]), &[]).text;
        let at = |part: &str| text.find(part).unwrap();
        assert!(at("ip daddr 10.1.2.3 ") < at("ip daddr 10.0.0.0/8 jump refuse"));
        assert!(at("ip daddr 10.0.0.0/8 jump refuse") < at("ip daddr @n_"));
    }

    #[test]
    fn the_id_is_that_of_the_content() {
        let one = chains(&policy(false, &["a.example", "b.example"]), &[]);
        let same = chains(&policy(false, &["b.example", "a.example"]), &[]);
        let other = chains(&policy(false, &["a.example:443", "b.example"]), &[]);
        let host = chains(
            &policy(false, &["a.example", "b.example"]),
            &["192.0.2.1".parse().unwrap()],
        );
        assert_eq!(one, same);
        assert_ne!(one.id, other.id);
        assert_ne!(one.mark, other.mark);
        assert_ne!(one.id, host.id);
        // A name keeps its set whatever else changes.
        let set = |chains: &Chains| chains.text.lines().next().unwrap().to_owned();
        assert_eq!(set(&one), set(&other));
    }

    #[test]
    fn ipv6_is_in_no_rule() {
        let text = chains(&policy(true, &["2001:db8::/32"]), &[]).text;
        assert!(!text.contains("2001"));
    }
}
