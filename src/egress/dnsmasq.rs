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
/// Maximum number of TCP connections. The packet filter accepts a few per pixel.
const TCP_CONNECTIONS: u32 = 100;

/// The address and port of a resolver, its upstream servers and its log.
#[derive(Debug, Clone)]
pub struct ResolverListen<'a> {
    /// `None` means all addresses of the machine.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
    /// Upstream servers. If empty, the configuration contains the placeholder
    /// `#`, which the start script replaces by the name servers of the machine.
    pub upstream: &'a [Ipv4Addr],
    /// File for the log. `None` means the system's log.
    pub log: Option<&'a str>,
}

/// The resolver's configuration. Names that the policy does not allow get
/// NXDOMAIN, including subdomains of an allowed host. Every answer adds its
/// addresses to the nftables sets of the rules that allow the name.
pub fn config(policy: &ResolvedPolicy, listen: &ResolverListen<'_>) -> String {
    let log = match listen.log {
        Some(file) => format!("log-facility={file}"),
        None => "log-async=100".to_owned(),
    };
    let mut text = format!(
        "port={}\n\
         bind-dynamic\n\
         no-resolv\n\
         no-hosts\n\
         no-poll\n\
         cache-size=0\n\
         max-ttl={TTL_SECONDS}\n\
         filter-AAAA\n\
         dns-forward-max={PENDING}\n\
         max-tcp-connections={TCP_CONNECTIONS}\n\
         log-queries=extra\n\
         {log}\n",
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
                for server in &upstream {
                    let _ = writeln!(text, "server=/{pattern}/{server}");
                }
            } else {
                let _ = writeln!(text, "local=/{pattern}/");
            }
        }
        let sets: Vec<String> = sets.into_iter().collect();
        let _ = writeln!(text, "nftset=/{name}/{}", sets.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(rules: &[&str]) -> String {
        config(
            &ResolvedPolicy::allowing(rules),
            &ResolverListen {
                address: Some(Ipv4Addr::new(10, 98, 0, 1)),
                port: 20_000,
                upstream: &[Ipv4Addr::new(192, 0, 2, 53)],
                log: None,
            },
        )
    }

    #[test]
    fn host_rule_excludes_subdomains() {
        let config = config_of(&["a.example", "*.b.example"]);
        let has = |line: &str| config.lines().any(|l| l == line);
        assert!(has("address=/#/"));
        assert!(has("server=/a.example/192.0.2.53"));
        assert!(has("local=/*.a.example/"));
        assert!(has("server=/*.b.example/192.0.2.53"));
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
        assert!(config.contains("server=/*.x.b.example/192.0.2.53"));
    }
}
