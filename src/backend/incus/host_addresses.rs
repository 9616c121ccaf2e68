//! IPv4 addresses of the host on which the daemon runs.

use std::net::Ipv4Addr;

use super::client::Client;
use super::error::Failure;
use super::isolated_bridge::network_path;
use super::wire::{Network, NetworkState};
use crate::model::Result;

/// The kernel's routing tables, which contain every local address.
const ROUTES: &str = "/proc/net/fib_trie";

/// Returns the addresses of the daemon's host that the daemon reports, except
/// loopback addresses.
pub(super) async fn reported(client: &Client) -> Result<Vec<Ipv4Addr>> {
    let networks: Vec<Network> = client.get("/1.0/networks?recursion=1").await?;
    let mut found = Vec::new();
    for network in &networks {
        let path = format!("{}/state", network_path(&network.name));
        match client.get::<NetworkState>(&path).await {
            Ok(state) => found.extend(
                state
                    .addresses
                    .iter()
                    .filter(|a| a.family == "inet")
                    .filter_map(|a| a.address.parse::<Ipv4Addr>().ok())
                    .filter(|address| !address.is_loopback()),
            ),
            // A network without an interface has no state.
            Err(Failure::Api { .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Returns the addresses of this machine's interfaces, except loopback addresses.
/// Empty if the kernel does not report them.
pub(super) fn local() -> Vec<Ipv4Addr> {
    parse(&std::fs::read_to_string(ROUTES).unwrap_or_default())
}

fn parse(routes: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut prefix = None;
    for line in routes.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            prefix = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(prefix.filter(|address| !address.is_loopback()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_host_routes() {
        let routes = "\
Local:
  +-- 0.0.0.0/0 3 0 4
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.7
           /32 host LOCAL
Main:
        |-- 192.0.2.7
           /32 host LOCAL
";
        assert_eq!(parse(routes), [Ipv4Addr::new(192, 0, 2, 7)]);
        assert!(parse("").is_empty());
    }
}
