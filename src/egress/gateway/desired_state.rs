//! What should be in force, from the server's records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::apply::GatewayState;
use super::clients::{self, Client};
use super::ruleset;
use super::state_files::StateFiles;
use super::subnet::Subnet;
use crate::egress::cidr::Cidr;
use crate::egress::policy::{INTERIM, KEY, Policy, ResolvedPolicy};
use crate::egress::presets::Presets;
use crate::egress::render::{self, ResolverListen};
use crate::model::{Error, Instance, Result};

/// Resolvers listen on ports from here on.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 20_000;

#[derive(Debug)]
pub struct DesiredState<'a> {
    pub subnet: Subnet,
    pub bridge: &'a str,
    /// All there are; those of other segments do not count.
    pub instances: &'a [Instance],
    pub presets: &'a Presets,
    /// Resolvers that names are asked of.
    pub dns: Vec<Ipv4Addr>,
    /// Addresses of the host that runs the pixels.
    pub host: Vec<Cidr>,
    pub ready: GatewayState,
}

impl DesiredState<'_> {
    /// The same records always make the same files.
    pub fn state_files(&self) -> Result<StateFiles> {
        if self.dns.is_empty() {
            return Err(Error::Invalid(
                "the gateway's network announces no resolver: name one in defaults.dns".into(),
            ));
        }
        let clients = clients::clients(self.instances, self.bridge, self.subnet);
        let mut policies: BTreeMap<ResolvedPolicy, Vec<&Client>> = BTreeMap::new();
        for client in &clients {
            policies
                .entry(self.policy_of(client))
                .or_default()
                .push(client);
        }
        let uplink = self.ready.host.parse::<Ipv4Addr>().ok();
        let mut forbidden = self.host.clone();
        forbidden.extend(uplink.map(|address| Cidr::V4 {
            address,
            prefix: 32,
        }));
        let mut payload = StateFiles::default();
        payload.file("base", ruleset::base(self.subnet, uplink));
        let mut elements = Vec::new();
        let mut ports = BTreeSet::new();
        for (policy, of) in &policies {
            let chains = render::chains(policy, &forbidden);
            let port = port(chains.mark, &mut ports);
            let listen = ResolverListen {
                address: Some(self.subnet.gateway()),
                port,
                upstream: &self.dns,
            };
            payload.file(
                format!("resolvers/{}", chains.id),
                render::resolver(policy, &listen),
            );
            for client in of {
                elements.push(ruleset::elements(client, &chains, port));
                let (name, text) = ruleset::lease_element(client);
                payload.file(format!("chains/{name}"), text);
            }
            payload.file(format!("chains/p_{}", chains.id), chains.text);
        }
        payload.file("elements", sorted(&elements.concat()));
        payload.file(
            "hosts",
            lines(&clients, |m| format!("{},{}", m.mac, m.address)),
        );
        payload.file(
            "neighbours",
            lines(&clients, |m| {
                format!(
                    "neigh replace {} lladdr {} dev eth1 nud permanent",
                    m.address, m.mac
                )
            }),
        );
        Ok(payload)
    }

    /// A record that cannot be read allows nothing.
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
                tracing::warn!(%error, name = %client.name, "policy");
                ResolvedPolicy::deny_all()
            }
            None => ResolvedPolicy::deny_all(),
        }
    }
}

/// A port that depends on the policy alone, except where two would share one.
fn port(mark: u32, taken: &mut BTreeSet<u16>) -> u16 {
    let first = u16::try_from(mark % u32::from(PORTS)).unwrap_or(0);
    let free = (0..PORTS)
        .map(|step| FIRST_PORT + (first + step) % PORTS)
        .find(|port| taken.insert(*port));
    free.unwrap_or(FIRST_PORT)
}

/// As `comm` wants its input.
fn sorted(text: &str) -> String {
    let lines: BTreeSet<&str> = text.lines().collect();
    lines
        .iter()
        .fold(String::new(), |text, line| text + line + "\n")
}

/// One line a client, in an order that does not depend on anything else.
fn lines(clients: &[Client], line: impl Fn(&Client) -> String) -> String {
    let lines: Vec<String> = clients.iter().map(|client| line(client) + "\n").collect();
    sorted(&lines.concat())
}
