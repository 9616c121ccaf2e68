//! IP networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the number of bits that count; the others are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cidr {
    V4 { address: Ipv4Addr, prefix: u8 },
    V6 { address: Ipv6Addr, prefix: u8 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCidr;

impl Cidr {
    pub fn contains(self, other: IpAddr) -> bool {
        match (self, other) {
            (Self::V4 { .. }, IpAddr::V4(address)) => self.covers(Self::V4 {
                address,
                prefix: 32,
            }),
            (Self::V6 { .. }, IpAddr::V6(address)) => self.covers(Self::V6 {
                address,
                prefix: 128,
            }),
            _ => false,
        }
    }

    /// Whether every address of `other` is one of these.
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (
                Self::V4 { address, prefix },
                Self::V4 {
                    address: a,
                    prefix: p,
                },
            ) => prefix <= p && (address.to_bits() ^ a.to_bits()) & mask4(prefix) == 0,
            (
                Self::V6 { address, prefix },
                Self::V6 {
                    address: a,
                    prefix: p,
                },
            ) => prefix <= p && (address.to_bits() ^ a.to_bits()) & mask6(prefix) == 0,
            _ => false,
        }
    }

    pub fn is_everything(self) -> bool {
        matches!(
            self,
            Self::V4 { prefix: 0, .. } | Self::V6 { prefix: 0, .. }
        )
    }

    pub fn is_v4(self) -> bool {
        matches!(self, Self::V4 { .. })
    }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    /// Bits beyond the prefix are cleared.
    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => {
                if prefix.starts_with('+') {
                    return Err(InvalidCidr);
                }
                (
                    address,
                    Some(prefix.parse::<u8>().map_err(|_| InvalidCidr)?),
                )
            }
        };
        match address.parse().map_err(|_| InvalidCidr)? {
            IpAddr::V4(address) => {
                let prefix = prefix.unwrap_or(32);
                let kept = (prefix <= 32).then(|| address.to_bits() & mask4(prefix));
                let address = Ipv4Addr::from_bits(kept.ok_or(InvalidCidr)?);
                Ok(Self::V4 { address, prefix })
            }
            IpAddr::V6(address) => {
                let prefix = prefix.unwrap_or(128);
                let kept = (prefix <= 128).then(|| address.to_bits() & mask6(prefix));
                let address = Ipv6Addr::from_bits(kept.ok_or(InvalidCidr)?);
                Ok(Self::V6 { address, prefix })
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4 {
                address,
                prefix: 32,
            } => write!(f, "{address}"),
            Self::V4 { address, prefix } => write!(f, "{address}/{prefix}"),
            Self::V6 {
                address,
                prefix: 128,
            } => write!(f, "{address}"),
            Self::V6 { address, prefix } => write!(f, "{address}/{prefix}"),
        }
    }
}
