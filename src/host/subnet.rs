//! IPv4 networks, and the choice of a free private one.
//!
//! Incus can choose for itself, and gives up on hosts where its probing by
//! ping and route finds nothing; the host's own routes tell more.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network such as `10.77.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// The network `address` lies in. `prefix` above 32 counts as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            base: u32::from(address) & mask(prefix),
            prefix,
        }
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }

    /// The first address, which the bridge takes, in the form Incus wants.
    pub fn gateway(&self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.base + 1), self.prefix)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = ();

    /// `10.0.0.0/8`, or a bare address. Anything else is refused.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, prefix.parse().map_err(drop)?),
            None => (text, 32),
        };
        if prefix > 32 {
            return Err(());
        }
        Ok(Self::new(address.parse().map_err(drop)?, prefix))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// A private /24 that overlaps nothing in `taken`. `seed` picks where the
/// search begins, so that two hosts seldom choose alike and one host always
/// does.
pub fn choose(taken: &[Subnet], seed: u64) -> Option<Subnet> {
    let of = |base: [u8; 2], count: u32| {
        let first = u32::from(Ipv4Addr::new(base[0], base[1], 0, 0));
        (0..count).map(move |i| {
            let turned = (u64::from(i) + seed) % u64::from(count);
            // Below `count`, so it fits.
            Subnet {
                base: first + ((turned as u32) << 8),
                prefix: 24,
            }
        })
    };
    // 10.64/10 first: clouds and VPNs crowd the low end of 10/8. Containers of
    // other runtimes live in 172.16/12, homes in 192.168/16.
    of([10, 64], 64 << 8)
        .chain(of([192, 168], 1 << 8))
        .chain(of([172, 16], 16 << 8))
        .chain(of([10, 0], 256 << 8))
        .find(|candidate| !taken.iter().any(|used| used.overlaps(candidate)))
}

/// Networks in the output of `ip -j -4 route show table all`, without the
/// default routes.
pub fn from_ip_json(text: &str) -> Result<Vec<Subnet>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Route {
        dst: String,
    }
    let routes: Vec<Route> = serde_json::from_str(text)?;
    Ok(keep(
        routes.iter().filter_map(|route| route.dst.parse().ok()),
    ))
}

/// Networks in `/proc/net/route`, without the default routes.
pub fn from_proc(text: &str) -> Vec<Subnet> {
    keep(text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let hex = |field: Option<&str>| u32::from_str_radix(field?, 16).ok().map(u32::swap_bytes);
        let base = hex(fields.nth(1))?;
        let mask = hex(fields.nth(5))?;
        let prefix = u8::try_from(mask.leading_ones()).ok()?;
        Some(Subnet::new(Ipv4Addr::from(base), prefix))
    }))
}

/// The resolvers of a resolv.conf: an address behind the default route must
/// not vanish behind a new bridge.
pub fn from_resolv_conf(text: &str) -> Vec<Subnet> {
    keep(text.lines().filter_map(|line| {
        let address = line.strip_prefix("nameserver")?.trim();
        address.parse().ok()
    }))
}

fn keep(routes: impl Iterator<Item = Subnet>) -> Vec<Subnet> {
    routes.filter(|route| route.prefix > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn overlap_is_symmetric_and_knows_both_sizes() {
        for (a, b, expect) in [
            ("10.0.0.0/8", "10.77.0.0/24", true),
            ("10.77.0.0/24", "10.77.0.9", true),
            ("10.77.0.0/24", "10.77.1.0/24", false),
            ("0.0.0.0/0", "192.168.0.0/24", true),
            ("192.168.0.0/16", "172.16.0.0/12", false),
        ] {
            assert_eq!(net(a).overlaps(&net(b)), expect, "{a} {b}");
            assert_eq!(net(b).overlaps(&net(a)), expect, "{b} {a}");
        }
        assert_eq!(net("10.77.0.5/24").to_string(), "10.77.0.0/24");
        assert_eq!(net("10.77.0.0/24").gateway(), "10.77.0.1/24");
        for bad in ["", "default", "10.0.0/8", "10.0.0.0/33", "::1"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_choice_avoids_what_is_taken_and_is_stable() {
        let free = choose(&[], 0).unwrap();
        assert_eq!(free.to_string(), "10.64.0.0/24");
        assert_eq!(choose(&[], 1 << 40), choose(&[], 1 << 40));
        assert_eq!(choose(&[free], 0).unwrap().to_string(), "10.64.1.0/24");
        let taken = [net("10.0.0.0/8"), net("192.168.0.0/17")];
        assert_eq!(choose(&taken, 0).unwrap().to_string(), "192.168.128.0/24");
        let taken = [net("10.0.0.0/8"), net("192.168.0.0/16")];
        assert_eq!(choose(&taken, 0).unwrap().to_string(), "172.16.0.0/24");
        let all = [
            net("10.0.0.0/8"),
            net("192.168.0.0/16"),
            net("172.16.0.0/12"),
        ];
        assert_eq!(choose(&all, 7), None);
    }

    #[test]
    fn both_forms_of_routes_agree() {
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
    fn resolvers_are_taken() {
        let text = "# a comment\nsearch lan\nnameserver 10.0.0.53\nnameserver fd00::1\n";
        assert_eq!(from_resolv_conf(text), [net("10.0.0.53")]);
    }
}
