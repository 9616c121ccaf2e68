//! Which interface of the server a pixel's network card is put on.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::wire::{Interface, Summary};
use crate::model::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicKind {
    Macvlan,
    Bridged,
}

/// What the settings say; what they leave open is found on the server.
#[derive(Debug, Clone, Default)]
pub struct NicOptions {
    pub kind: Option<NicKind>,
    pub parent: Option<String>,
}

/// The device of a new instance. Its kind and its parent are always sent: the
/// server fails without either.
pub(super) fn choose(
    options: &NicOptions,
    interfaces: &[Interface],
    summary: &Summary,
) -> Result<Value> {
    let parent = match &options.parent {
        Some(parent) => parent.as_str(),
        None => to_gateway(summary).ok_or_else(|| {
            Error::Invalid(
                "no interface of the TrueNAS server leads to a default route: set \
                 defaults.nic_type and defaults.parent"
                    .into(),
            )
        })?,
    };
    let found = interfaces.iter().find(|interface| interface.name == parent);
    let is_bridge = found.is_some_and(|interface| interface.kind == "BRIDGE");
    let kind = match options.kind {
        Some(kind) => kind,
        // Over its own bridge the server itself reaches the pixel too.
        None if is_bridge => NicKind::Bridged,
        None => NicKind::Macvlan,
    };
    Ok(json!({
        "dev_type": "NIC",
        "nic_type": match kind {
            NicKind::Macvlan => "MACVLAN",
            NicKind::Bridged => "BRIDGED",
        },
        "parent": parent,
    }))
}

/// The interface on whose network the default gateway is.
fn to_gateway(summary: &Summary) -> Option<&str> {
    let mut gateways = summary
        .default_routes
        .iter()
        .filter_map(|route| route.parse::<Ipv4Addr>().ok());
    gateways.find_map(|gateway| {
        let has = |text: &String| contains(text, gateway).unwrap_or(false);
        let found = summary.ips.iter().find(|(_, ips)| ips.v4.iter().any(has));
        found.map(|(name, _)| name.as_str())
    })
}

fn contains(network: &str, address: Ipv4Addr) -> Option<bool> {
    let (own, bits) = network.split_once('/')?;
    let own: Ipv4Addr = own.parse().ok()?;
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    Some(own.to_bits() & mask == address.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(kind: &str) -> (Vec<Interface>, Summary) {
        let interfaces =
            json!([{"name": "eno1", "type": kind}, {"name": "eno2", "type": "PHYSICAL"}]);
        let summary = json!({
            "ips": {"eno2": {"IPV4": ["198.51.100.2/24"]}, "eno1": {"IPV4": ["192.0.2.10/24"]}, "lo": {}},
            "default_routes": ["fe80::1", "192.0.2.1"],
        });
        (
            serde_json::from_value(interfaces).unwrap(),
            serde_json::from_value(summary).unwrap(),
        )
    }

    #[test]
    fn the_interface_to_the_gateway_is_taken() {
        let (interfaces, summary) = server("PHYSICAL");
        let nic = choose(&NicOptions::default(), &interfaces, &summary).unwrap();
        assert_eq!(
            (&nic["nic_type"], &nic["parent"]),
            (&json!("MACVLAN"), &json!("eno1"))
        );
        let (interfaces, summary) = server("BRIDGE");
        let nic = choose(&NicOptions::default(), &interfaces, &summary).unwrap();
        assert_eq!(nic["nic_type"], "BRIDGED");
    }

    #[test]
    fn settings_win_each_by_itself() {
        let (interfaces, summary) = server("BRIDGE");
        let options = NicOptions {
            kind: None,
            parent: Some("eno2".into()),
        };
        let nic = choose(&options, &interfaces, &summary).unwrap();
        assert_eq!(
            (&nic["nic_type"], &nic["parent"]),
            (&json!("MACVLAN"), &json!("eno2"))
        );
        let options = NicOptions {
            kind: Some(NicKind::Macvlan),
            parent: None,
        };
        let nic = choose(&options, &interfaces, &summary).unwrap();
        assert_eq!(
            (&nic["nic_type"], &nic["parent"]),
            (&json!("MACVLAN"), &json!("eno1"))
        );
    }

    #[test]
    fn without_a_way_out_nothing_is_guessed() {
        let (interfaces, mut summary) = server("BRIDGE");
        summary.default_routes.clear();
        assert!(choose(&NicOptions::default(), &interfaces, &summary).is_err());
        assert_eq!(contains("192.0.2.1/33", Ipv4Addr::LOCALHOST), None);
        assert_eq!(contains("0.0.0.0/0", Ipv4Addr::LOCALHOST), Some(true));
    }
}
