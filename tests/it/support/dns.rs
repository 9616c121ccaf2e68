//! Minimal DNS message functions for test name servers (RFC 1035 §4).

use std::net::Ipv4Addr;

const HEADER: usize = 12;
const A: u16 = 1;
const HTTPS: u16 = 65;
/// An HTTPS record (RFC 9460) with a key for encrypted server names.
const KEY: &[u8] = b"\0\x01\0\0\x05\0\x08pxtechkq";

/// Returns the queried name in lower case.
pub fn question(query: &[u8]) -> Option<String> {
    let (labels, _) = name(query)?;
    Some(labels.join(".").to_lowercase())
}

fn name(query: &[u8]) -> Option<(Vec<String>, usize)> {
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels, at));
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += length;
    }
}

/// Encodes a response. `None` for `addresses` means NXDOMAIN. Each existing name
/// has an HTTPS record.
pub fn answer(query: &[u8], addresses: Option<&[Ipv4Addr]>, ttl_seconds: u32) -> Vec<u8> {
    let Some((_, end)) = name(query) else {
        return Vec::new();
    };
    let kind = query
        .get(end..end + 2)
        .map(|k| u16::from_be_bytes([k[0], k[1]]));
    let found: Vec<Vec<u8>> = match (addresses, kind) {
        (Some(addresses), Some(A)) => addresses.iter().map(|a| a.octets().to_vec()).collect(),
        (Some(_), Some(HTTPS)) => vec![KEY.to_vec()],
        _ => Vec::new(),
    };
    // Flags: recursion available, with success or NXDOMAIN.
    let status = if addresses.is_some() { 0x80 } else { 0x83 };
    let mut text = query[..2].to_vec();
    text.extend([0x84, status, 0, 1]);
    text.extend(u16::try_from(found.len()).unwrap().to_be_bytes());
    text.extend([0; 4]);
    text.extend(&query[HEADER..(end + 4).min(query.len())]);
    for record in found {
        text.extend([0xc0, 12]);
        text.extend(kind.unwrap_or(A).to_be_bytes());
        text.extend([0, 1]);
        text.extend(ttl_seconds.to_be_bytes());
        text.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        text.extend(record);
    }
    text
}
