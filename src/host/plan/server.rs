//! Steps the daemon does: storage pool and bridge.

use serde_json::json;

use super::step::{Action, Plan, Step, StepId};
use crate::host::Options;
use crate::host::facts::{HostFacts, ServerFacts};
use crate::host::subnet::{self, Subnet};

/// What a bridge of ours is called, as `incus admin init` would.
pub const BRIDGE_NAME: &str = "incusbr0";
const POOL_NAME: &str = "default";
const GIB: u64 = 1 << 30;
/// A pool is this large where the disk allows, and at least that.
const POOL_GIB: u64 = 20;
const POOL_LEAST_GIB: u64 = 4;

pub fn needs_pool(server: Option<&ServerFacts>, options: &Options) -> bool {
    server.is_none_or(|facts| facts.usable_pool(options.pool.as_deref()).is_none())
}

pub fn needs_network(server: Option<&ServerFacts>, options: &Options) -> bool {
    server.is_none_or(|facts| facts.usable_network(options.network.as_deref()).is_none())
}

pub fn denied(plan: &mut Plan, facts: &HostFacts, reason: &str) {
    let fix = if facts.local.is_some() {
        "sudo usermod -aG incus-admin \"$USER\", then log in again (members are as good as root)"
    } else {
        "add this client's certificate on the server: incus config trust add-certificate FILE"
    };
    access(plan, reason, "the Incus server does not let us", fix);
}

pub fn unreachable(plan: &mut Plan, reason: &str) {
    access(
        plan,
        reason,
        "the machine of a remote Incus cannot be prepared from here",
        "run `pixels setup` on that machine, and let Incus listen there: \
         incus config set core.https_address :8443",
    );
}

fn access(plan: &mut Plan, reason: &str, missing: &str, fix: &str) {
    plan.steps.push(Step {
        id: StepId::Access,
        title: "reach Incus".into(),
        reason: reason.to_owned(),
        action: Action::Blocked {
            missing: missing.to_owned(),
            fix: fix.to_owned(),
        },
    });
}

pub fn pool(plan: &mut Plan, facts: &HostFacts, options: &Options) {
    let name = options.pool.as_deref().unwrap_or(POOL_NAME);
    let server = facts.server.facts();
    let existing = server.and_then(|s| s.pools.iter().find(|pool| pool.name == name));
    let action = if let Some(broken) = existing {
        Action::Blocked {
            missing: format!("the pool exists, and its state is {:?}", broken.status),
            fix: format!("incus storage show {name}"),
        }
    } else if server.is_some_and(|s| s.clustered) {
        clustered("incus storage create --target MEMBER, once for each member")
    } else {
        new_pool(plan, facts, name)
    };
    plan.steps.push(Step {
        id: StepId::Pool,
        title: format!("create the storage pool {name}"),
        reason: match &options.pool {
            Some(name) => format!("the settings name {name}"),
            None => "there is none".into(),
        },
        action,
    });
}

fn new_pool(plan: &mut Plan, facts: &HostFacts, name: &str) -> Action {
    let local = facts.local.as_ref();
    // A daemon here learns of the tools as they are installed; one elsewhere
    // says what it has.
    let btrfs = match (local, facts.server.facts()) {
        (Some(local), _) => local.btrfs,
        (None, Some(server)) => server.drivers.iter().any(|driver| driver == "btrfs"),
        (None, None) => false,
    };
    let (driver, config) = if btrfs {
        let free = local.map_or(u64::MAX, |local| local.free_disk) / GIB;
        let size = POOL_GIB.min(free - free / 5);
        if size < POOL_LEAST_GIB {
            return Action::Blocked {
                missing: format!("only {free} GiB of disk are free where Incus keeps its data"),
                fix: "free some space there, or create a pool on another disk: \
                      incus storage create NAME btrfs source=/dev/DISK"
                    .into(),
            };
        }
        ("btrfs", json!({ "size": format!("{size}GiB") }))
    } else {
        plan.warnings.push(
            "no btrfs here: the pool will be plain directories, where every clone is a full copy \
             and checkpoints are slow"
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

pub fn network(plan: &mut Plan, facts: &HostFacts, options: &Options) {
    let server = facts.server.facts();
    let name = match &options.network {
        Some(name) => name.clone(),
        None => free_name(facts),
    };
    let action = if server.is_some_and(|s| s.clustered) {
        clustered("incus network create --target MEMBER, once for each member")
    } else {
        let seed = facts.local.as_ref().map_or(0, |local| local.seed);
        match subnet::choose(&taken(facts), seed) {
            Some(subnet) => Action::Request {
                method: "POST",
                path: "/1.0/networks".into(),
                body: json!({
                    "name": name,
                    "type": "bridge",
                    "config": {
                        "ipv4.address": subnet.gateway(),
                        "ipv4.nat": "true",
                        "ipv6.address": "none",
                    },
                }),
            },
            None => Action::Blocked {
                missing: "every private IPv4 network is in use here".into(),
                fix: format!("incus network create {name} ipv4.address=ADDRESS/24 ipv4.nat=true"),
            },
        }
    };
    plan.steps.push(Step {
        id: StepId::Network,
        title: format!("create the bridge {name}"),
        reason: match &options.network {
            Some(name) => format!("the settings name {name}"),
            None => "there is no managed bridge".into(),
        },
        action,
    });
}

/// `incusbr0`, or the next number no interface or network has.
fn free_name(facts: &HostFacts) -> String {
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

fn taken(facts: &HostFacts) -> Vec<Subnet> {
    let mut taken: Vec<Subnet> = Vec::new();
    if let Some(local) = &facts.local {
        taken.extend(&local.routes);
    }
    if let Some(server) = facts.server.facts() {
        taken.extend(&server.addresses);
        let configured = server
            .networks
            .iter()
            .flat_map(|n| n.config.get("ipv4.address"));
        taken.extend(configured.filter_map(|address| address.parse::<Subnet>().ok()));
    }
    taken
}

fn clustered(fix: &str) -> Action {
    Action::Blocked {
        missing: "the server is a cluster, where every member's part is the administrator's choice"
            .into(),
        fix: fix.into(),
    }
}
