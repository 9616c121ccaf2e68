//! The network device of a new pixel.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::wire::{Interface, Summary};
use crate::model::{Error, NicKind, Reason, Result};

/// The configured values. Missing values are derived from the server's
/// interfaces.
#[derive(Debug, Clone, Default)]
pub struct NicOptions {
    pub kind: Option<NicKind>,
    pub parent: Option<String>,
}

/// Returns the device of a new instance. The server requires a type and a
/// parent. Fails with `Error::Invalid` without a parent.
pub(super) fn choose(
    options: &NicOptions,
    interfaces: &[Interface],
    summary: &Summary,
) -> Result<Value> {
    let parent = match &options.parent {
        Some(parent) => parent.as_str(),
        None => default_route_interface(summary).ok_or_else(|| {
            Error::Invalid(
                Reason::from("the TrueNAS server has no interface with a default route")
                    .with_hint("set defaults.nic_type and defaults.parent"),
            )
        })?,
    };
    let is_bridge = interfaces
        .iter()
        .any(|interface| interface.name == parent && interface.kind == "BRIDGE");
    let kind = match options.kind {
        Some(kind) => kind,
        // A bridge connects the server to the pixel, which macvlan does not.
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

/// Returns the interface whose network contains the default gateway.
fn default_route_interface(summary: &Summary) -> Option<&str> {
    let mut gateways = summary
        .default_routes
        .iter()
        .filter_map(|route| route.parse::<Ipv4Addr>().ok());
    gateways.find_map(|gateway| {
        let contains_gateway = |network: &String| {
            network
                .parse::<Ipv4Net>()
                .is_ok_and(|network| network.contains(&gateway))
        };
        let mut interfaces = summary.ips.iter();
        let found = interfaces.find(|(_, ips)| ips.v4.iter().any(contains_gateway));
        found.map(|(name, _)| name.as_str())
    })
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
    fn kind_and_parent_override_defaults_separately() {
        for (interface, kind, parent, expected) in [
            ("PHYSICAL", None, None, ("MACVLAN", "eno1")),
            ("BRIDGE", None, None, ("BRIDGED", "eno1")),
            ("BRIDGE", None, Some("eno2"), ("MACVLAN", "eno2")),
            ("BRIDGE", Some(NicKind::Macvlan), None, ("MACVLAN", "eno1")),
        ] {
            let (interfaces, summary) = server(interface);
            let parent = parent.map(str::to_owned);
            let options = NicOptions { kind, parent };
            let nic = choose(&options, &interfaces, &summary).unwrap();
            let (kind, parent) = expected;
            assert_eq!(
                (&nic["nic_type"], &nic["parent"]),
                (&json!(kind), &json!(parent))
            );
        }
    }

    #[test]
    fn no_default_route_is_an_error() {
        let (interfaces, mut summary) = server("BRIDGE");
        summary.default_routes.clear();
        assert!(choose(&NicOptions::default(), &interfaces, &summary).is_err());
        let (_, mut summary) = server("BRIDGE");
        for ips in summary.ips.values_mut() {
            ips.v4 = vec!["192.0.2.10/33".into()];
        }
        assert_eq!(default_route_interface(&summary), None);
    }
}
