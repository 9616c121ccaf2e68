//! IPv4 networks in use on this host, and selection of a free private network.
//!
//! Incus can select a network itself, but on some hosts its probes by ping and
//! route detect no conflict. The host's routes show more networks.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Private networks in order of preference. 10.64/10 is first, because clouds
/// and VPNs use the low end of 10/8, home networks use 192.168/16 and other
/// container runtimes use 172.16/12.
const PRIVATE: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
];

/// Parses `10.0.0.0/8`, or an address as a network with one address. Clears the
/// host bits.
pub fn parse(text: &str) -> Option<Ipv4Net> {
    let network = match text.contains('/') {
        true => text.parse().ok()?,
        false => Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?),
    };
    Some(network.trunc())
}

/// Returns a private /24 that does not overlap with the networks in `used`.
/// `seed` selects the start of the search: two hosts rarely get the same
/// network, and a host always gets the same network.
pub fn choose(used: &[Ipv4Net], seed: u64) -> Option<Ipv4Net> {
    let overlap = |a: &Ipv4Net, b: &Ipv4Net| a.contains(b) || b.contains(a);
    PRIVATE
        .iter()
        .filter_map(|block| block.subnets(24).ok().zip(Some(block)))
        .flat_map(|(subnets, block)| {
            let count = 1u64 << (24 - block.prefix_len());
            // The remainder is less than `count`, which is at most 2^16.
            let start = (seed % count) as usize;
            subnets.skip(start).chain(subnets.take(start))
        })
        .find(|candidate| !used.iter().any(|network| overlap(network, candidate)))
}

/// Returns the networks in the output of `ip -j -4 route show table all`,
/// without default routes.
pub fn from_ip_json(text: &str) -> Result<Vec<Ipv4Net>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Route {
        dst: String,
    }
    let routes: Vec<Route> = serde_json::from_str(text)?;
    let networks = routes.iter().filter_map(|route| parse(&route.dst));
    Ok(without_default(networks))
}

/// Returns the networks in `/proc/net/route`, without default routes.
pub fn from_proc(text: &str) -> Vec<Ipv4Net> {
    without_default(text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let address = |field: Option<&str>| {
            let number = u32::from_str_radix(field?, 16).ok()?;
            Some(Ipv4Addr::from(number.swap_bytes()))
        };
        let destination = address(fields.nth(1))?;
        let mask = address(fields.nth(5))?;
        Some(Ipv4Net::with_netmask(destination, mask).ok()?.trunc())
    }))
}

/// Returns the resolvers in a resolv.conf. A resolver on the default route must
/// not become unreachable through a new bridge.
pub fn from_resolv_conf(text: &str) -> Vec<Ipv4Net> {
    without_default(
        text.lines()
            .filter_map(|line| parse(line.strip_prefix("nameserver")?.trim())),
    )
}

fn without_default(networks: impl Iterator<Item = Ipv4Net>) -> Vec<Ipv4Net> {
    networks
        .filter(|network| network.prefix_len() > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        parse(text).unwrap()
    }

    #[test]
    fn parse_clears_host_bits_and_rejects_other_text() {
        assert_eq!(net("10.77.0.5/24").to_string(), "10.77.0.0/24");
        assert_eq!(net("10.77.0.5").to_string(), "10.77.0.5/32");
        for bad in ["", "default", "10.0.0/8", "10.0.0.0/33", "::1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn choose_avoids_used_networks_and_is_stable() {
        let free = choose(&[], 0).unwrap();
        assert_eq!(free.to_string(), "10.64.0.0/24");
        assert_eq!(choose(&[], 1 << 40), choose(&[], 1 << 40));
        assert_eq!(choose(&[], 258).unwrap().to_string(), "10.65.2.0/24");
        assert_eq!(choose(&[free], 0).unwrap().to_string(), "10.64.1.0/24");
        let free = choose(&[net("10.64.0.9")], 0).unwrap();
        assert_eq!(free.to_string(), "10.64.1.0/24");
        let used = [net("10.0.0.0/8"), net("192.168.0.0/17")];
        assert_eq!(choose(&used, 0).unwrap().to_string(), "192.168.128.0/24");
        let used = [net("10.0.0.0/8"), net("192.168.0.0/16")];
        assert_eq!(choose(&used, 0).unwrap().to_string(), "172.16.0.0/24");
        let used = [
            net("10.0.0.0/8"),
            net("192.168.0.0/16"),
            net("172.16.0.0/12"),
        ];
        assert_eq!(choose(&used, 7), None);
    }

    #[test]
    fn routes_in_json_and_proc_form_agree() {
        let json = r#"[{"dst":"default","gateway":"192.0.2.1"},
            {"dst":"10.77.0.0/24","dev":"incusbr0"},
            {"type":"local","dst":"192.0.2.2","table":"local"},
            {"dst":"192.0.2.0/24"}]"#;
        let from_json = from_ip_json(json).unwrap();
        assert_eq!(
            from_json,
            [net("10.77.0.0/24"), net("192.0.2.2"), net("192.0.2.0/24")]
        );
        let proc = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\n\
            incusbr0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n";
        assert_eq!(from_proc(proc), [net("10.77.0.0/24"), net("192.0.2.0/24")]);
    }

    #[test]
    fn resolv_conf_yields_ipv4_resolvers() {
        let text = "# a comment\nsearch lan\nnameserver 10.0.0.53\nnameserver fd00::1\n";
        assert_eq!(from_resolv_conf(text), [net("10.0.0.53")]);
    }
}
