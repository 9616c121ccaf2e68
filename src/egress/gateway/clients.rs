//! The pixels behind a gateway, according to the server's records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::subnet::Subnet;
use crate::model::{Instance, Name};

/// The instance property with the address of a pixel behind a gateway.
pub const ADDRESS: &str = "address";

/// A pixel whose allowed packets the gateway forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub name: Name,
    /// MAC address, such as `10:66:6a:01:02:03`.
    pub mac: String,
    pub address: Ipv4Addr,
}

/// The address in the property. `None` if the property is missing or invalid.
pub fn address_of(instance: &Instance) -> Option<Ipv4Addr> {
    instance.properties.get(ADDRESS)?.parse().ok()
}

/// Returns the pixels on an isolated bridge that have a unique MAC address and
/// a unique address in the subnet. If pixels have the same address, only the
/// oldest is a client. Other pixels, such as those with an invalid address,
/// have no network.
pub fn clients(instances: &[Instance], bridge: &str, subnet: Subnet) -> Vec<Client> {
    let mut candidates: Vec<(&Instance, Client)> = instances
        .iter()
        .filter(|instance| instance.isolated_bridge.as_deref() == Some(bridge))
        .filter_map(|instance| {
            let client = Client {
                name: instance.name.clone(),
                mac: instance.mac.clone().filter(|mac| is_mac(mac))?,
                address: address_of(instance)
                    .filter(|address| subnet.contains(*address) && *address != subnet.gateway())?,
            };
            Some((instance, client))
        })
        .collect();
    candidates.sort_by_key(|(instance, _)| (instance.created_at, instance.name.clone()));
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
        clients(instances, "pixels0", subnet)
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
}
