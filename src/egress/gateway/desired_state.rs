//! The state that a gateway should have, from the server's records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::apply::GatewayState;
use super::clients::{self, Client, PixelRecord};
use super::state_files::StateFiles;
use super::subnet::Subnet;
use super::{dhcp, ruleset};
use crate::egress::dnsmasq::{self, ResolverListen};
use crate::egress::lease;
use crate::egress::nftables::{self, Chains};
use crate::egress::policy::{Policy, ResolvedPolicy};
use crate::egress::presets::Presets;
use crate::model::{Error, Name, Reason, Result};

/// The resolvers listen on ports from this port on, below the ports of queries and
/// of other clients.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = dnsmasq::FIRST_QUERY_PORT - FIRST_PORT;
/// Port of the forwarder.
pub(super) const FORWARDER_PORT: u16 = 19_999;
/// The pipe that `record_names.sh` reads.
pub(super) const RESOLVER_LOG: &str = "/run/pixels/queries";

/// A change of the provisioning leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange<'a> {
    None,
    /// Begins the lease of this pixel or restarts its time, if its policy has
    /// leases.
    Begin(&'a Name),
    End(&'a Name),
}

/// The clients that use a policy.
#[derive(Default)]
struct Users<'a> {
    always: Vec<&'a Client>,
    during_lease: Vec<&'a Client>,
}

#[derive(Debug)]
pub struct DesiredState<'a> {
    pub subnet: Subnet,
    /// The pixels on the bridge.
    pub pixels: &'a [PixelRecord],
    pub presets: &'a Presets,
    /// Upstream name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Addresses of the host that runs the pixels.
    pub host_addresses: Vec<Ipv4Addr>,
    pub current: GatewayState,
    pub lease_change: LeaseChange<'a>,
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
        let clients = clients::clients(self.pixels, self.subnet);
        let mut files = StateFiles::default();
        let mut users_by_policy: BTreeMap<ResolvedPolicy, Users<'_>> = BTreeMap::new();
        for client in &clients {
            let policy = policy_of(client);
            let leased = policy.as_ref().and_then(Policy::during_lease);
            if let Some(leased) = leased
                && self.has_lease(client)
            {
                let users = users_by_policy.entry(leased.resolve(self.presets));
                users.or_default().during_lease.push(client);
                if self.lease_change == LeaseChange::Begin(&client.name) {
                    files.run_after(lease::begin(&client.address.to_string()));
                }
            }
            let policy = policy.map(|policy| policy.resolve(self.presets));
            let users = users_by_policy.entry(policy.unwrap_or_else(ResolvedPolicy::deny_all));
            users.or_default().always.push(client);
        }
        let uplink = self.current.host.parse::<Ipv4Addr>().ok();
        files.insert("base", ruleset::base(self.subnet, uplink));
        files.insert("forwarder", dnsmasq::forwarder(FORWARDER_PORT, &self.dns));
        let local_domain = self.current.single_label_domain();
        let host = self.host_addresses.iter().copied().chain(uplink);
        let mut elements: Vec<String> = host.map(ruleset::host_element).collect();
        let mut ports = Ports::in_use(&self.current.ports);
        let mut parts = BTreeMap::new();
        for (policy, users) in &users_by_policy {
            let chains = nftables::chains(policy, Some("host"));
            let port = ports.assign(&chains);
            let listen = ResolverListen {
                address: Some(self.subnet.gateway()),
                port,
                forwarder_port: FORWARDER_PORT,
                log: Some(RESOLVER_LOG),
                local_domain: local_domain.as_ref(),
            };
            files.insert(
                format!("resolvers/{}", chains.id),
                dnsmasq::config(policy, &listen),
            );
            for client in &users.during_lease {
                elements.push(ruleset::provisioning_elements(client, &chains, port));
            }
            for client in &users.always {
                elements.push(ruleset::elements(client, &chains, port));
                parts.extend([ruleset::lease_chain(client), ruleset::denial_chain(client)]);
            }
            parts.insert(format!("p_{}", chains.id), chains.text);
        }
        let pixels: String = self.pixels.iter().map(PixelRecord::to_line).collect();
        files.insert("pixels", sorted(&pixels));
        files.insert("chains", parts_text(&parts));
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

    fn has_lease(&self, client: &Client) -> bool {
        match self.lease_change {
            LeaseChange::Begin(name) if *name == client.name => true,
            LeaseChange::End(name) if *name == client.name => false,
            _ => self.current.leases.contains(&client.address),
        }
    }
}

/// `None` for an invalid policy record, which denies all destinations.
fn policy_of(client: &Client) -> Option<Policy> {
    let invalid = |error| tracing::warn!(%error, name = %client.name, "invalid policy, denying all destinations");
    Policy::from_record(client.policy.as_deref())
        .map_err(invalid)
        .ok()
}

/// The ports of resolvers, by the ID of the policy.
#[derive(Debug, Default)]
struct Ports {
    present: BTreeMap<String, u16>,
    used: BTreeSet<u16>,
}

impl Ports {
    /// Keeps the ports of the resolvers that run. Also the port of a resolver that
    /// ends is in use until the new resolvers run.
    fn in_use(reported: &BTreeMap<String, u16>) -> Self {
        let mut ports = Self::default();
        for (id, port) in reported {
            let is_valid = (FIRST_PORT..FIRST_PORT + PORTS).contains(port);
            if is_valid && ports.used.insert(*port) {
                ports.present.insert(id.clone(), *port);
            }
        }
        ports
    }

    /// Returns the port of a running resolver, or else a port derived from the policy
    /// or, if that is in use, the next port.
    fn assign(&mut self, policy: &Chains) -> u16 {
        if let Some(port) = self.present.get(&policy.id) {
            return *port;
        }
        let first = u16::try_from(policy.mark % u32::from(PORTS)).unwrap_or(0);
        let port = (0..PORTS)
            .map(|step| FIRST_PORT + (first + step) % PORTS)
            .find(|port| self.used.insert(*port))
            .unwrap_or(FIRST_PORT);
        // Policies that differ only in rules that the gateway ignores have one ID.
        self.present.insert(policy.id.clone(), port);
        port
    }
}

/// The parts of the packet filter in one file, each after a line `# part NAME`.
/// One file, because a gateway may have hundreds of pixels.
fn parts_text(parts: &BTreeMap<String, String>) -> String {
    let parts: Vec<String> = parts
        .iter()
        .map(|(name, text)| format!("# part {name}\n{text}"))
        .collect();
    parts.concat()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::gateway::ADDRESS;
    use crate::egress::policy::{KEY, Mode};
    use crate::model::{Instance, Properties, fake};

    fn pixel(number: u8, rule: &str) -> Instance {
        let policy = Policy::new(Mode::Allowlist, [rule.parse().unwrap()]);
        Instance {
            name: format!("a{number}").parse().unwrap(),
            mac: Some(format!("10:66:6a:00:00:{number:02x}")),
            isolated_bridge: Some("pixels0".into()),
            ..fake::pixel(Properties::from([
                (ADDRESS.to_owned(), format!("10.98.0.{number}")),
                (KEY.to_owned(), policy.to_record()),
            ]))
        }
    }

    fn parts(instances: &[Instance]) -> Vec<(String, String)> {
        let desired = DesiredState {
            subnet: "10.98.0.0/16".parse().unwrap(),
            pixels: &clients::records(instances, "pixels0"),
            presets: crate::egress::presets(),
            dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
            host_addresses: Vec::new(),
            current: GatewayState::default(),
            lease_change: LeaseChange::None,
        };
        let text = desired.state_files().unwrap().to_text("");
        let chains = text.split("==> chains\n").nth(1).unwrap();
        let chains = chains.split("==> ").next().unwrap();
        let parts = chains.split("# part ").skip(1);
        parts
            .map(|part| part.split_once('\n').unwrap())
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect()
    }

    #[test]
    fn running_resolvers_keep_their_ports() {
        let policy = |id: &str, mark: u16| Chains {
            id: id.to_owned(),
            mark: mark.into(),
            text: String::new(),
        };
        let reported = |ports: &[(&str, u16)]| {
            let ports = ports.iter().map(|(id, port)| ((*id).to_owned(), *port));
            Ports::in_use(&ports.collect())
        };
        let mut ports = reported(&[("b", FIRST_PORT + 7), ("ended", FIRST_PORT + 8)]);
        assert_eq!(ports.assign(&policy("a", 7)), FIRST_PORT + 9);
        assert_eq!(ports.assign(&policy("b", 7)), FIRST_PORT + 7);
        assert_eq!(ports.assign(&policy("a", 7)), FIRST_PORT + 9);
        // A port of two resolvers, and one that is not for resolvers.
        let mut ports = reported(&[("a", FIRST_PORT), ("b", FIRST_PORT), ("c", 53)]);
        let assigned = ["a", "b", "c"].map(|id| ports.assign(&policy(id, PORTS - 1)));
        assert_eq!(assigned, [0, PORTS - 1, 1].map(|port| FIRST_PORT + port));
    }

    #[test]
    fn parts_are_sorted_and_depend_only_on_their_pixel_and_policy() {
        let few = [pixel(2, "a.example"), pixel(3, "b.example")];
        let more = [few.as_slice(), &[pixel(4, "b.example")]].concat();
        let (few, more) = (parts(&few), parts(&more));
        // Two for each pixel and one for each policy.
        assert_eq!((few.len(), more.len()), (6, 8));
        assert!(few.iter().all(|part| more.contains(part)));
        assert!(more.is_sorted());
    }
}
