//! IP networks of rules, and the networks that are never public.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Networks whose packets never leave a machine or its link: "this network",
/// loopback, link-local, multicast, reserved.
pub(super) const RESERVED: [&str; 5] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// Private networks, which the host and its neighbors may use, including those
/// for protocol assignments and for benchmarks.
pub(super) const PRIVATE: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
];

/// An IPv4 or IPv6 network. The host bits are zero. A network that consists of
/// one address is displayed without a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNet);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCidr;

impl Cidr {
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address of `other` is in this network.
    pub fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether the network contains all addresses of its family.
    pub fn is_everything(self) -> bool {
        self.0.prefix_len() == 0
    }

    pub fn is_v4(self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    /// Accepts `ADDRESS` and `ADDRESS/PREFIX`. Clears the host bits.
    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        // `ipnet` would accept leading zeros; the standard library does not.
        let address: IpAddr = address.parse().map_err(|_| InvalidCidr)?;
        let net = match prefix {
            None => IpNet::from(address),
            Some(prefix) if prefix.starts_with('+') => return Err(InvalidCidr),
            Some(prefix) => {
                let prefix = prefix.parse().map_err(|_| InvalidCidr)?;
                IpNet::new(address, prefix).map_err(|_| InvalidCidr)?
            }
        };
        Ok(Self(net.trunc()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// Whether an address is closed in every mode and for every name: only a rule with
/// the address opens an IPv4 address. IPv6 is always closed. `lan`: whether the policy
/// opens private networks.
pub(super) fn is_closed(address: IpAddr, lan: bool) -> bool {
    address.is_ipv6()
        || RESERVED
            .iter()
            .chain(PRIVATE.iter().filter(|_| !lan))
            .filter_map(|net| net.parse::<Cidr>().ok())
            .any(|net| net.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_networks_stay_closed_with_lan() {
        let closed = |text: &str| is_closed(text.parse().unwrap(), true);
        assert!(closed("169.254.169.254") && closed("127.0.0.1") && closed("::1"));
        assert!(!closed("10.0.0.1") && !closed("192.168.1.1"));
    }

    #[test]
    fn protocol_and_benchmark_networks_are_closed() {
        let private = |text: &str| is_closed(text.parse().unwrap(), false);
        for inside in ["192.0.0.8", "198.18.0.1", "198.19.255.254"] {
            assert!(private(inside), "{inside}");
        }
        for outside in ["192.0.1.1", "198.17.255.254", "198.20.0.1"] {
            assert!(!private(outside), "{outside}");
        }
    }
}
