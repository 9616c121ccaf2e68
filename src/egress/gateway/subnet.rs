//! The addresses behind a gateway.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The second bytes of the subnets that nobody chose.
const OTHERS: std::ops::Range<u32> = 128..224;

/// An IPv4 network of at least eight addresses. Its first host is the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IPv4 network such as 10.98.0.0/16")]
pub struct InvalidSubnet(String);

impl Subnet {
    /// Of a segment for which nobody chose one: the same for everybody, and for
    /// two segments of one host hardly ever the same.
    pub fn for_bridge(bridge: &str, usual: &str) -> Self {
        let second = if bridge == usual {
            98
        } else {
            let sum = bridge.bytes().fold(7u32, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u32::from(byte))
            });
            // Neither where people begin to count nor where they end.
            OTHERS.start + sum % (OTHERS.end - OTHERS.start)
        };
        Self::sixteen(second)
    }

    /// Those to try in turn where that is somebody else's on the host.
    pub fn alternatives(self) -> impl Iterator<Item = Self> {
        let second = self.network >> 16 & 0xff;
        (OTHERS.start..OTHERS.end)
            .cycle()
            .skip_while(move |other| OTHERS.contains(&second) && *other != second)
            .filter(move |other| *other != second)
            .take((OTHERS.end - OTHERS.start) as usize - 1)
            .map(Self::sixteen)
    }

    fn sixteen(second: u32) -> Self {
        Self {
            network: 10 << 24 | second << 16,
            prefix: 16,
        }
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.network) & self.mask() == 0
    }

    pub fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        (self.network ^ other.network) & mask == 0
    }

    /// An address for a pixel that is not in `taken`: the first free one from
    /// where `seed` points to, so that callers who know nothing of each other
    /// rarely choose the same, and an address is not soon used again.
    pub fn free(self, taken: &BTreeSet<Ipv4Addr>, seed: u64) -> Option<Ipv4Addr> {
        // Without the network, the gateway and the broadcast address.
        let count = u64::from(!self.mask()) - 2;
        let start = seed % count;
        (0..count)
            .map(|step| {
                let offset = u32::try_from((start + step) % count).unwrap_or(0);
                Ipv4Addr::from_bits(self.network + 2 + offset)
            })
            .find(|address| !taken.contains(address))
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask())
    }

    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let bad = || InvalidSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if !(8..=29).contains(&prefix) {
            return Err(bad());
        }
        let mut subnet = Self { network: 0, prefix };
        subnet.network = address.to_bits() & subnet.mask();
        Ok(subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_out_once() {
        let subnet: Subnet = "10.98.0.5/29".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.98.0.0/29");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 98, 0, 1));
        let mut taken = BTreeSet::new();
        for _ in 0..5 {
            let address = subnet.free(&taken, 3).unwrap();
            assert!(subnet.contains(address));
            assert_ne!(address, subnet.gateway());
            assert_ne!(address, Ipv4Addr::new(10, 98, 0, 7));
            assert!(taken.insert(address));
        }
        assert_eq!(subnet.free(&taken, 3), None);
    }

    #[test]
    fn there_is_another_one_where_that_is_taken() {
        let first = Subnet::for_bridge("px-other", "pixels0");
        let instead: Vec<Subnet> = first.alternatives().collect();
        assert_eq!(instead.len(), 95);
        assert!(!instead.contains(&first));
        assert_ne!(instead[0], instead[1]);
        let usual = Subnet::for_bridge("pixels0", "pixels0");
        assert!(usual.alternatives().next().is_some());
        assert!(!usual.alternatives().any(|other| other == usual));
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let net = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(net("10.0.0.0/8").overlaps(net("10.98.0.0/16")));
        assert!(net("10.98.0.0/16").overlaps(net("10.0.0.0/8")));
        assert!(!net("10.98.0.0/16").overlaps(net("10.99.0.0/16")));
        for bad in ["", "10.0.0.0", "10.0.0.0/30", "10.0.0.0/7", "x/16"] {
            assert!(bad.parse::<Subnet>().is_err());
        }
    }
}
