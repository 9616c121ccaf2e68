//! The network of the pixels behind a gateway.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// Range of the second octet of automatic subnets. Excludes low and high
/// numbers, which people often choose.
const AUTOMATIC: Range<u8> = 128..224;

/// An IPv4 network of at least eight addresses. The gateway has the first host
/// address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet(Ipv4Net);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 network such as 10.98.0.0/16")]
pub struct InvalidSubnet(String);

impl Subnet {
    /// Returns the default subnet of an isolated bridge: the same for all
    /// users, and usually different for two bridges of a host.
    pub fn for_bridge(bridge: &str, default_bridge: &str) -> Self {
        if bridge == default_bridge {
            return Self::automatic(98);
        }
        let hash = bridge.bytes().fold(7u32, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u32::from(byte))
        });
        let offset = hash % u32::from(AUTOMATIC.end - AUTOMATIC.start);
        Self::automatic(AUTOMATIC.start + u8::try_from(offset).unwrap_or(0))
    }

    /// Returns the other automatic subnets, to be tried in this order if the
    /// host uses this subnet.
    pub fn alternatives(self) -> impl Iterator<Item = Self> {
        let own = self.0.network().octets()[1];
        AUTOMATIC
            .cycle()
            .skip_while(move |octet| AUTOMATIC.contains(&own) && *octet != own)
            .filter(move |octet| *octet != own)
            .take(AUTOMATIC.len() - 1)
            .map(Self::automatic)
    }

    fn automatic(second_octet: u8) -> Self {
        Self(Ipv4Net::new_assert(
            Ipv4Addr::new(10, second_octet, 0, 0),
            16,
        ))
    }

    pub fn prefix(self) -> u8 {
        self.0.prefix_len()
    }

    pub fn gateway(self) -> Ipv4Addr {
        self.nth(1)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// Returns an address that is not in `allocated`: the first free address at
    /// or after the position `seed`. With random seeds, concurrent callers
    /// rarely choose the same address, and an address is not reused soon.
    /// `None` if the subnet is full.
    pub fn free(self, allocated: &BTreeSet<Ipv4Addr>, seed: u64) -> Option<Ipv4Addr> {
        // Exclude the network, gateway and broadcast addresses.
        let count = u64::from(!self.0.netmask().to_bits()) - 2;
        let start = seed % count;
        (0..count)
            .map(|step| {
                let offset = u32::try_from((start + step) % count).unwrap_or(0);
                self.nth(2 + offset)
            })
            .find(|address| !allocated.contains(address))
    }

    fn nth(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.network().to_bits() + offset)
    }

    pub fn netmask(self) -> Ipv4Addr {
        self.0.netmask()
    }

    pub fn network(self) -> Ipv4Addr {
        self.0.network()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let invalid = || InvalidSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        // `ipnet` would accept leading zeros; the standard library does not.
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if !(8..=29).contains(&prefix) {
            return Err(invalid());
        }
        let net = Ipv4Net::new(address, prefix).map_err(|_| invalid())?;
        Ok(Self(net.trunc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_returns_each_host_address_once() {
        let subnet: Subnet = "10.98.0.5/29".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.98.0.0/29");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 98, 0, 1));
        let mut allocated = BTreeSet::new();
        for _ in 0..5 {
            let address = subnet.free(&allocated, 3).unwrap();
            assert!(subnet.contains(address));
            assert_ne!(address, subnet.gateway());
            assert_ne!(address, Ipv4Addr::new(10, 98, 0, 7));
            assert!(allocated.insert(address));
        }
        assert_eq!(subnet.free(&allocated, 3), None);
    }

    #[test]
    fn alternatives_exclude_own_subnet() {
        let first = Subnet::for_bridge("px-other", "pixels0");
        let alternatives: Vec<Subnet> = first.alternatives().collect();
        assert_eq!(alternatives.len(), 95);
        assert!(!alternatives.contains(&first));
        assert_ne!(alternatives[0], alternatives[1]);
        let default = Subnet::for_bridge("pixels0", "pixels0");
        assert!(default.alternatives().next().is_some());
        assert!(!default.alternatives().any(|other| other == default));
    }

    #[test]
    fn overlaps_is_symmetric() {
        let net = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(net("10.0.0.0/8").overlaps(net("10.98.0.0/16")));
        assert!(net("10.98.0.0/16").overlaps(net("10.0.0.0/8")));
        assert!(!net("10.98.0.0/16").overlaps(net("10.99.0.0/16")));
        for invalid in ["", "10.0.0.0", "10.0.0.0/30", "10.0.0.0/7", "x/16"] {
            assert!(invalid.parse::<Subnet>().is_err());
        }
    }
}
