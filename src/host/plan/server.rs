//! Steps on the Incus server: access, storage pool and bridge.

use ipnet::Ipv4Net;
use serde_json::json;

use super::step::{Action, Plan, StepId};
use crate::host::Options;
use crate::host::facts::{HostFacts, ServerFacts};
use crate::host::subnet;

/// Name of the bridge that setup creates, as with `incus admin init`.
pub const BRIDGE_NAME: &str = "incusbr0";
const POOL_NAME: &str = "default";
const GIB: u64 = 1 << 30;
/// Size of a new pool if the disk has enough free space.
const POOL_GIB: u64 = 20;
/// Minimum size of a new pool.
const POOL_MINIMUM_GIB: u64 = 4;

pub fn needs_pool(server: Option<&ServerFacts>, options: &Options) -> bool {
    server.is_none_or(|facts| facts.usable_pool(options.pool.as_deref()).is_none())
}

pub fn needs_network(server: Option<&ServerFacts>, options: &Options) -> bool {
    server.is_none_or(|facts| facts.usable_network(options.network.as_deref()).is_none())
}

/// Adds the step that blocks the plan if the server denies access.
pub fn add_access_denied(plan: &mut Plan, facts: &HostFacts, reason: &str) {
    let fix = if facts.local.is_some() {
        "sudo usermod -aG incus-admin \"$USER\", then log in again \
         (members of that group are as good as root)"
    } else {
        "add this client's certificate on the server: incus config trust add-certificate FILE"
    };
    let action = Action::blocked("not authorized by the Incus server", fix);
    plan.add(StepId::Access, "connect to Incus", reason, action);
}

/// Adds the step that blocks the plan if a remote server does not answer.
pub fn add_unreachable(plan: &mut Plan, reason: &str) {
    let action = Action::blocked(
        "a remote Incus server must be set up on its own machine",
        "run `pixels setup` on that machine, and make Incus listen: \
         incus config set core.https_address :8443",
    );
    plan.add(StepId::Access, "connect to Incus", reason, action);
}

/// Adds the step that creates the storage pool.
pub fn add_pool(plan: &mut Plan, facts: &HostFacts, options: &Options) {
    let name = options.pool.as_deref().unwrap_or(POOL_NAME);
    let server = facts.server.facts();
    let existing = server.and_then(|s| s.pools.iter().find(|pool| pool.name == name));
    let action = if let Some(broken) = existing {
        Action::blocked(
            format!("the pool exists, and its state is {:?}", broken.status),
            format!("incus storage show {name}"),
        )
    } else if server.is_some_and(|s| s.clustered) {
        blocked_by_cluster("incus storage create --target MEMBER, once for each member")
    } else {
        create_pool(plan, facts, name)
    };
    let reason = match &options.pool {
        Some(name) => format!("the settings name {name}"),
        None => "the server has no usable pool".into(),
    };
    let title = format!("create the storage pool {name}");
    plan.add(StepId::Pool, title, reason, action);
}

fn create_pool(plan: &mut Plan, facts: &HostFacts, name: &str) -> Action {
    let local = facts.local.as_ref();
    // The local daemon does not list btrfs until the plan has installed its
    // tools. The driver list of a remote daemon is complete.
    let btrfs = match (local, facts.server.facts()) {
        (Some(local), _) => local.btrfs,
        (None, Some(server)) => server.drivers.iter().any(|driver| driver == "btrfs"),
        (None, None) => false,
    };
    let (driver, config) = if btrfs {
        let free = local.map_or(u64::MAX, |local| local.free_disk) / GIB;
        let size = POOL_GIB.min(free - free / 5);
        if size < POOL_MINIMUM_GIB {
            return Action::blocked(
                format!("the file system of Incus has only {free} GiB of free space"),
                "free some space there, or create a pool on another disk: \
                 incus storage create NAME btrfs source=/dev/DISK",
            );
        }
        ("btrfs", json!({ "size": format!("{size}GiB") }))
    } else {
        plan.warnings.push(
            "no btrfs: the pool uses plain directories, where every clone is a full copy and \
             checkpoints are slow"
                .into(),
        );
        ("dir", json!({}))
    };
    Action::Request {
        method: "POST",
        path: "/1.0/storage-pools".into(),
        body: json!({ "name": name, "driver": driver, "config": config }),
    }
}

/// Adds the step that creates the bridge.
pub fn add_network(plan: &mut Plan, facts: &HostFacts, options: &Options) {
    let name = match &options.network {
        Some(name) => name.clone(),
        None => free_bridge_name(facts),
    };
    let action = if facts.server.facts().is_some_and(|s| s.clustered) {
        blocked_by_cluster("incus network create --target MEMBER, once for each member")
    } else {
        create_network(facts, &name)
    };
    let reason = match &options.network {
        Some(name) => format!("the settings name {name}"),
        None => "the server has no managed bridge".into(),
    };
    plan.add(
        StepId::Network,
        format!("create the bridge {name}"),
        reason,
        action,
    );
}

fn create_network(facts: &HostFacts, name: &str) -> Action {
    let seed = facts.local.as_ref().map_or(0, |local| local.seed);
    let subnet = subnet::choose(&used_networks(facts), seed);
    let Some((subnet, address)) = subnet.and_then(|s| Some((s, s.hosts().next()?))) else {
        return Action::blocked(
            "every private IPv4 network is in use",
            format!("incus network create {name} ipv4.address=ADDRESS/24 ipv4.nat=true"),
        );
    };
    Action::Request {
        method: "POST",
        path: "/1.0/networks".into(),
        body: json!({
            "name": name,
            "type": "bridge",
            "config": {
                "ipv4.address": format!("{address}/{}", subnet.prefix_len()),
                "ipv4.nat": "true",
                "ipv6.address": "none",
            },
        }),
    }
}

/// Returns `incusbr0`, or the name with the lowest number that no interface or
/// network uses.
fn free_bridge_name(facts: &HostFacts) -> String {
    let interfaces = facts.local.iter().flat_map(|local| local.interfaces.iter());
    let networks = facts.server.facts().into_iter().flat_map(|s| &s.networks);
    let used: Vec<&str> = interfaces
        .map(String::as_str)
        .chain(networks.map(|network| network.name.as_str()))
        .collect();
    (0u32..)
        .map(|number| format!("incusbr{number}"))
        .find(|name| !used.contains(&name.as_str()))
        .unwrap_or_else(|| BRIDGE_NAME.into())
}

fn used_networks(facts: &HostFacts) -> Vec<Ipv4Net> {
    let mut used: Vec<Ipv4Net> = Vec::new();
    if let Some(local) = &facts.local {
        used.extend(&local.routes);
    }
    if let Some(server) = facts.server.facts() {
        used.extend(&server.addresses);
        let configured = server
            .networks
            .iter()
            .flat_map(|n| n.config.get("ipv4.address"));
        used.extend(configured.filter_map(|address| subnet::parse(address)));
    }
    used
}

fn blocked_by_cluster(fix: &str) -> Action {
    Action::blocked(
        "the server is a cluster, where the administrator configures every member",
        fix,
    )
}
