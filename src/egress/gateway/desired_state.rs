//! The state that a gateway should have, from the server's records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::apply::GatewayState;
use super::clients::{self, Client};
use super::state_files::StateFiles;
use super::subnet::Subnet;
use super::{dhcp, ruleset};
use crate::egress::dnsmasq::{self, ResolverListen};
use crate::egress::nftables;
use crate::egress::policy::{INTERIM, KEY, Policy, ResolvedPolicy};
use crate::egress::presets::Presets;
use crate::model::{Error, Instance, Reason, Result};

/// The resolvers listen on ports from this port on.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 20_000;
/// Address of the server to which the resolvers forward.
const FORWARDER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 19_999);
/// The pipe that `record_names.sh` reads.
pub(super) const RESOLVER_LOG: &str = "/run/pixels/queries";

#[derive(Debug)]
pub struct DesiredState<'a> {
    pub subnet: Subnet,
    pub bridge: &'a str,
    /// All instances of the server. Instances on other bridges are ignored.
    pub instances: &'a [Instance],
    pub presets: &'a Presets,
    /// Upstream name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Addresses of the host that runs the pixels.
    pub host_addresses: Vec<Ipv4Addr>,
    pub current: GatewayState,
}

impl DesiredState<'_> {
    /// Returns the files of the state. Equal records result in equal files.
    /// Fails with `Error::Invalid` without an upstream name server.
    pub fn state_files(&self) -> Result<StateFiles> {
        if self.dns.is_empty() {
            return Err(Error::Invalid(
                Reason::from("the gateway's network announces no name server")
                    .with_hint("set defaults.dns"),
            ));
        }
        let clients = clients::clients(self.instances, self.bridge, self.subnet);
        let mut clients_by_policy: BTreeMap<ResolvedPolicy, Vec<&Client>> = BTreeMap::new();
        for client in &clients {
            clients_by_policy
                .entry(self.policy_of(client))
                .or_default()
                .push(client);
        }
        let uplink = self.current.host.parse::<Ipv4Addr>().ok();
        let mut files = StateFiles::default();
        files.insert("base", ruleset::base(self.subnet, uplink));
        files.insert("forwarder", dnsmasq::forwarder(FORWARDER, &self.dns));
        let local_domain = self.current.single_label_domain();
        let host = self.host_addresses.iter().copied().chain(uplink);
        let mut elements: Vec<String> = host.map(ruleset::host_element).collect();
        let mut ports = BTreeSet::new();
        for (policy, clients) in &clients_by_policy {
            let chains = nftables::chains(policy, Some("host"));
            let port = assign_port(chains.mark, &mut ports);
            let listen = ResolverListen {
                address: Some(self.subnet.gateway()),
                port,
                upstream: &[FORWARDER],
                log: Some(RESOLVER_LOG),
                local_domain: local_domain.as_ref(),
            };
            files.insert(
                format!("resolvers/{}", chains.id),
                dnsmasq::config(policy, &listen),
            );
            for client in clients {
                elements.push(ruleset::elements(client, &chains, port));
                let (name, text) = ruleset::lease_chain(client);
                files.insert(format!("chains/{name}"), text);
                let (name, text) = ruleset::denial_chain(client);
                files.insert(format!("chains/{name}"), text);
            }
            files.insert(format!("chains/p_{}", chains.id), chains.text);
        }
        files.insert("elements", sorted(&elements.concat()));
        files.insert("hosts", lines(&clients, dhcp::reservation));
        files.insert(
            "neighbours",
            lines(&clients, |c| {
                format!(
                    "neigh replace {} lladdr {} dev eth1 nud permanent",
                    c.address, c.mac
                )
            }),
        );
        Ok(files)
    }

    /// An invalid policy record denies all destinations.
    fn policy_of(&self, client: &Client) -> ResolvedPolicy {
        let record = self
            .instances
            .iter()
            .find(|instance| instance.name == client.name)
            .map(|instance| {
                let property = |key: &str| instance.properties.get(key).map(String::as_str);
                property(INTERIM).or_else(|| property(KEY))
            });
        match record.map(Policy::from_record) {
            Some(Ok(policy)) => policy.resolve(self.presets),
            Some(Err(error)) => {
                tracing::warn!(%error, name = %client.name, "invalid policy, denying all destinations");
                ResolvedPolicy::deny_all()
            }
            None => ResolvedPolicy::deny_all(),
        }
    }
}

/// Returns a port derived from the policy, or the next port if it is in use.
fn assign_port(mark: u32, used: &mut BTreeSet<u16>) -> u16 {
    let first = u16::try_from(mark % u32::from(PORTS)).unwrap_or(0);
    (0..PORTS)
        .map(|step| FIRST_PORT + (first + step) % PORTS)
        .find(|port| used.insert(*port))
        .unwrap_or(FIRST_PORT)
}

/// Sorts lines, as `comm` requires.
fn sorted(text: &str) -> String {
    let lines: BTreeSet<&str> = text.lines().collect();
    lines
        .iter()
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Returns one line per client, sorted.
fn lines(clients: &[Client], line: impl Fn(&Client) -> String) -> String {
    let lines: Vec<String> = clients.iter().map(|client| line(client) + "\n").collect();
    sorted(&lines.concat())
}
