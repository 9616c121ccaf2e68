//! The pixels behind a gateway, according to the server's records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::subnet::Subnet;
use crate::egress::policy::KEY;
use crate::model::{Instance, Name};

/// The instance property with the address of a pixel behind a gateway.
pub const ADDRESS: &str = "address";

/// What the server records about a pixel on an isolated bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelRecord {
    pub name: Name,
    /// Creation time in seconds since 1970.
    created_at: i64,
    mac: Option<String>,
    address: Option<String>,
    policy: Option<String>,
}

impl PixelRecord {
    /// The record of an instance. `None` if it is not on this bridge.
    pub fn from_instance(instance: &Instance, bridge: &str) -> Option<Self> {
        let property = |key: &str| instance.properties.get(key).cloned();
        (instance.isolated_bridge.as_deref() == Some(bridge)).then(|| Self {
            name: instance.name.clone(),
            created_at: instance.created_at,
            mac: instance.mac.clone(),
            address: property(ADDRESS),
            policy: property(KEY),
        })
    }

    /// The record as one line of ASCII text, which [`Self::parse`] reads.
    pub(super) fn to_line(&self) -> String {
        let fields = (
            self.name.as_str(),
            self.created_at,
            &self.mac,
            &self.address,
            &self.policy,
        );
        let mut line = String::new();
        for c in serde_json::json!(fields).to_string().chars() {
            if c.is_ascii() && c != '\u{7f}' {
                line.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
        line + "\n"
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let (name, created_at, mac, address, policy): (String, _, _, _, _) =
            serde_json::from_str(line).ok()?;
        Some(Self {
            name: name.parse().ok()?,
            created_at,
            mac,
            address,
            policy,
        })
    }
}

/// The records of the instances on a bridge.
pub fn records(instances: &[Instance], bridge: &str) -> Vec<PixelRecord> {
    let records = instances.iter();
    records
        .filter_map(|instance| PixelRecord::from_instance(instance, bridge))
        .collect()
}

/// A pixel whose allowed packets the gateway forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub name: Name,
    /// MAC address, such as `10:66:6a:01:02:03`.
    pub mac: String,
    pub address: Ipv4Addr,
    /// The recorded policy. `None` if there is no record.
    pub(super) policy: Option<String>,
}

/// Returns the pixels that have a unique MAC address and a unique address in the
/// subnet. If pixels have the same address, only the oldest is a client. Other
/// pixels, such as those with an invalid address, have no network.
pub fn clients(records: &[PixelRecord], subnet: Subnet) -> Vec<Client> {
    let mut candidates: Vec<(&PixelRecord, Client)> = records
        .iter()
        .filter_map(|record| {
            let client = Client {
                name: record.name.clone(),
                mac: record.mac.clone().filter(|mac| is_mac(mac))?,
                address: record
                    .address
                    .as_ref()
                    .and_then(|address| address.parse().ok())
                    .filter(|address| subnet.contains(*address) && *address != subnet.gateway())?,
                policy: record.policy.clone(),
            };
            Some((record, client))
        })
        .collect();
    candidates.sort_by_key(|(record, _)| (record.created_at, record.name.clone()));
    let mut addresses = BTreeSet::new();
    let mut uses = BTreeMap::<String, usize>::new();
    for (_, client) in &candidates {
        *uses.entry(client.mac.clone()).or_default() += 1;
    }
    let mut clients: Vec<Client> = candidates
        .into_iter()
        .map(|(_, client)| client)
        .filter(|client| uses[&client.mac] == 1 && addresses.insert(client.address))
        .collect();
    clients.sort_by(|a, b| a.name.cmp(&b.name));
    clients
}

/// The address in the property. `None` if the property is missing or invalid.
pub fn address_of(instance: &Instance) -> Option<Ipv4Addr> {
    instance.properties.get(ADDRESS)?.parse().ok()
}

/// The addresses of all pixels, clients or not.
pub fn allocated_addresses(instances: &[Instance]) -> BTreeSet<Ipv4Addr> {
    instances.iter().filter_map(address_of).collect()
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Properties, fake};

    fn pixel(name: &str, created_at: i64, mac: &str, address: &str) -> Instance {
        Instance {
            name: name.parse().unwrap(),
            created_at,
            mac: Some(mac.into()),
            isolated_bridge: Some("pixels0".into()),
            ..fake::pixel(Properties::from([(ADDRESS.into(), address.into())]))
        }
    }

    fn names(instances: &[Instance]) -> Vec<String> {
        let subnet = "10.98.0.0/16".parse().unwrap();
        clients(&records(instances, "pixels0"), subnet)
            .into_iter()
            .map(|client| client.name.to_string())
            .collect()
    }

    #[test]
    fn duplicate_mac_or_address_excluded() {
        let a = pixel("a", 2, "10:66:6a:00:00:01", "10.98.0.2");
        let b = pixel("b", 1, "10:66:6a:00:00:02", "10.98.0.3");
        assert_eq!(names(&[b.clone(), a.clone()]), ["a", "b"]);

        let younger = pixel("c", 9, "10:66:6a:00:00:03", "10.98.0.2");
        assert_eq!(names(&[younger, a.clone()]), ["a"]);
        let twin = pixel("d", 9, "10:66:6a:00:00:01", "10.98.0.9");
        assert!(names(&[twin, a.clone()]).is_empty());
        for invalid in [
            pixel("e", 1, "10:66:6a:00:00:04", "10.98.0.1"),
            pixel("e", 1, "10:66:6a:00:00:04", "10.99.0.7"),
            pixel("e", 1, "10:66:6a:00:00:04", "x; drop"),
            pixel("e", 1, "10:66:6a:00:00:04 .", "10.98.0.8"),
        ] {
            assert!(names(&[invalid]).is_empty());
        }
        let mut elsewhere = a;
        elsewhere.isolated_bridge = Some("other0".into());
        assert!(names(&[elsewhere]).is_empty());
    }

    #[test]
    fn records_are_read_as_written() {
        for policy in [None, Some("a\n==> end\u{7f}\u{1f980}é\"\\".to_owned())] {
            let mut instance = pixel("a", -7, "10:66:6a:00:00:01", "10.98.0.2");
            instance
                .properties
                .extend(policy.map(|policy| (KEY.to_owned(), policy)));
            let record = PixelRecord::from_instance(&instance, "pixels0").unwrap();
            let line = record.to_line();
            assert!(
                line.trim_end()
                    .bytes()
                    .all(|byte| (b' '..=b'~').contains(&byte)),
                "{line}"
            );
            assert_eq!(PixelRecord::parse(line.trim_end()), Some(record));
        }
        assert_eq!(PixelRecord::parse("[\"a\"]"), None);
    }
}
