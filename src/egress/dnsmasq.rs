//! Renders a policy as the configuration of a dnsmasq resolver.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::domain::Domain;
use super::nftables::learned_set;
use super::policy::ResolvedPolicy;
use super::rule::{Rule, Target};

/// Time in seconds that a client may cache an answer. A gateway that lost its
/// learned addresses denies cached addresses until the client queries again.
const TTL_SECONDS: u32 = 30;
/// Maximum number of unanswered queries. A pixel can cause as many as the packet
/// filter accepts from it within dnsmasq's limit of 10 seconds.
const PENDING: u32 = 10_000;
/// The first source port of queries to upstream servers, also the first port that
/// Linux gives to clients. A resolver cannot start on a port in use.
pub const FIRST_QUERY_PORT: u16 = 32_768;
/// Maximum number of TCP connections. The packet filter accepts a few per pixel.
const TCP_CONNECTIONS: u32 = 100;
/// Address of the forwarder for resolvers of unrestricted policies.
const OPEN_FORWARDER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Address of the forwarder for resolvers of restricted policies. In queries sent to
/// this address, the packet filter resets the flags and removes additional records.
pub(super) const RESTRICTED_FORWARDER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Domains that Incus and LXD give to the instances on their bridges.
const INSTANCE_DOMAINS: [&str; 2] = ["incus", "lxd"];

/// The address and port of a resolver, its forwarder and its log.
#[derive(Debug, Clone)]
pub struct ResolverListen<'a> {
    /// `None` means all addresses of the machine.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
    /// Port of the server that [`forwarder()`] configures.
    pub forwarder_port: u16,
    /// File for the log. `None` means the system's log.
    pub log: Option<&'a str>,
    /// Domain of the machines on the upstream servers' network.
    pub local_domain: Option<&'a Domain>,
}

/// The resolver's configuration. Names that the policy does not allow get
/// NXDOMAIN, including subdomains of an allowed host. Every answer adds its
/// addresses to the nftables sets of the rules that allow the name. Answers
/// contain no IPv6 addresses and no HTTPS or SVCB records, whose keys would
/// encrypt the server names of TLS connections. Needs dnsmasq 2.90.
pub fn config(policy: &ResolvedPolicy, listen: &ResolverListen<'_>) -> String {
    let mut text = common(listen.port);
    let log = match listen.log {
        Some(file) => format!("log-facility={file}"),
        None => "log-async=100".to_owned(),
    };
    let _ = write!(
        text,
        "bind-dynamic\n\
         max-ttl={TTL_SECONDS}\n\
         filter-AAAA\n\
         filter-rr=HTTPS,SVCB\n\
         max-tcp-connections={TCP_CONNECTIONS}\n\
         log-queries=extra\n\
         {log}\n"
    );
    if let Some(address) = listen.address {
        let _ = writeln!(text, "listen-address={address}");
    }
    let forwarder = if policy.open {
        OPEN_FORWARDER
    } else {
        RESTRICTED_FORWARDER
    };
    let server = format!("{forwarder}#{}", listen.forwarder_port);
    if policy.open {
        push_private_names(&mut text, policy, listen.local_domain);
        let _ = writeln!(text, "server={server}");
        return text;
    }
    text.push_str("address=/#/\n");
    let names: BTreeSet<&Domain> = policy.rules.iter().filter_map(Rule::name).collect();
    for name in names {
        // dnsmasq uses only the most specific line, so the line of a name
        // contains the rules of the name and of all wildcards above the name.
        let (mut host, mut subdomains, mut sets) = (false, false, BTreeSet::new());
        for rule in &policy.rules {
            match &rule.target {
                Target::Host(other) if other == name => host = true,
                Target::Subdomains(parent) if name.is_within(parent) => {
                    subdomains = true;
                    host |= name != parent;
                }
                _ => continue,
            }
            sets.extend(learned_set(rule).map(|set| format!("4#inet#pixels#{set}")));
        }
        for (pattern, allowed) in [(name.to_string(), host), (format!("*.{name}"), subdomains)] {
            if allowed {
                let _ = writeln!(text, "server=/{pattern}/{server}");
            } else {
                let _ = writeln!(text, "local=/{pattern}/");
            }
        }
        let sets: Vec<String> = sets.into_iter().collect();
        let _ = writeln!(text, "nftset=/{name}/{}", sets.join(","));
    }
    text
}

/// Returns the configuration of the forwarder, to which all resolvers of a machine
/// send their queries. The forwarder queries `upstream`, but answers queries for
/// IPv6 addresses itself with an address that the resolvers remove. dnsmasq cannot do this in one
/// process. Clients query both families and wait for both answers, and some
/// name servers answer only queries for IPv4 addresses.
///
/// If `upstream` is empty, the configuration contains the placeholder `server=#`. In
/// a pixel, `forwarder.sh` replaces the placeholder with a line for each name server
/// that the network announces.
pub fn forwarder(port: u16, upstream: &[Ipv4Addr]) -> String {
    let mut text = common(port);
    let _ = write!(
        text,
        "bind-interfaces\n\
         listen-address={OPEN_FORWARDER},{RESTRICTED_FORWARDER}\n\
         max-tcp-connections={}\n\
         address=/#/::\n",
        10 * TCP_CONNECTIONS
    );
    if upstream.is_empty() {
        text.push_str("server=#\n");
    }
    for server in upstream {
        let _ = writeln!(text, "server={server}");
    }
    text
}

/// The lines that all configurations contain. Queries about the server itself
/// (class CHAOS) are refused. `strip-subnet` removes the client subnet of a query,
/// and what follows its last record.
fn common(port: u16) -> String {
    format!(
        "port={port}\n\
         no-resolv\n\
         no-hosts\n\
         no-poll\n\
         no-ident\n\
         strip-subnet\n\
         strip-mac\n\
         local=/bind/\n\
         local=/server/\n\
         min-port={FIRST_QUERY_PORT}\n\
         cache-size=0\n\
         dns-forward-max={PENDING}\n"
    )
}

/// Denies the names of the host and of other instances, which the server of a
/// host's bridge knows, unless the policy allows private networks.
fn push_private_names(text: &mut String, policy: &ResolvedPolicy, local: Option<&Domain>) {
    if policy.lan {
        return;
    }
    text.push_str("domain-needed\nbogus-priv\n");
    let local = local.map(ToString::to_string);
    let known = INSTANCE_DOMAINS.iter().copied();
    let domains: BTreeSet<&str> = known.chain(local.as_deref()).collect();
    for domain in domains {
        let _ = writeln!(text, "local=/{domain}/");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(rules: &[&str]) -> String {
        render(&ResolvedPolicy::allowing(rules), None)
    }

    fn render(policy: &ResolvedPolicy, local_domain: Option<&Domain>) -> String {
        config(
            policy,
            &ResolverListen {
                address: Some(Ipv4Addr::new(10, 98, 0, 1)),
                port: 20_000,
                forwarder_port: 19_999,
                log: None,
                local_domain,
            },
        )
    }

    #[test]
    fn open_policy_denies_private_names_unless_lan_is_open() {
        let local = Domain::parse("lan").unwrap();
        let mut policy = ResolvedPolicy::deny_all();
        policy.open = true;
        let private = [
            "domain-needed",
            "bogus-priv",
            "local=/incus/",
            "local=/lan/",
        ];
        let closed = render(&policy, Some(&local));
        policy.lan = true;
        let open = render(&policy, Some(&local));
        for line in private {
            assert!(closed.lines().any(|l| l == line), "{line}");
            assert!(!open.lines().any(|l| l == line), "{line}");
        }
    }

    #[test]
    fn host_rule_excludes_subdomains() {
        let config = config_of(&["a.example", "*.b.example"]);
        let has = |line: &str| config.lines().any(|l| l == line);
        assert!(has("address=/#/"));
        assert!(has("server=/a.example/127.0.0.2#19999"));
        assert!(has("local=/*.a.example/"));
        assert!(has("server=/*.b.example/127.0.0.2#19999"));
        assert!(has("local=/b.example/"));
    }

    #[test]
    fn host_within_wildcard_uses_both_sets() {
        let config = config_of(&["*.b.example:443", "x.b.example:22"]);
        let line = config
            .lines()
            .find(|l| l.starts_with("nftset=/x.b.example/"))
            .unwrap();
        assert_eq!(line.matches("n_").count(), 2);
        assert!(config.contains("server=/*.x.b.example/127.0.0.2#19999"));
    }
}
