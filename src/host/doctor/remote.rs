//! Checks that hold for any server, local or not.

use super::{Check, Facts, Space, Status};
use crate::host::Options;
use crate::host::facts::{Reachability, ServerFacts, ServerState};
use crate::host::plan::{ImageState, can_stand_in, image_state};

const SETUP: &str = "sudo pixels setup";
const OLDEST: (u32, u32) = (6, 0);
/// What pixels relies on beyond the oldest release's basics.
const EXTENSIONS: &[&str] = &[
    "container_exec_user_group_cwd",
    "container_nic_ipfilter",
    "container_nic_routes",
    "instance_create_start",
    "instance_nic_bridged_port_isolation",
    "network_bridge_acl",
    "network_leases",
    "restrict_dev_incus",
    "snapshot_expiry_creation",
];
const GIB: u64 = 1 << 30;

/// Identifier and title of every check here, in order.
const ALL: &[(&str, &str)] = &[
    ("version", "Incus is recent enough"),
    ("extensions", "Incus has what pixels needs"),
    ("pool", "storage pool"),
    ("pool-space", "space in the storage pool"),
    ("network", "network with DHCP"),
    ("image", "default image"),
];

pub fn access(facts: &Facts, options: &Options) -> Check {
    let found = |status, detail: String| Check::new("access", "Incus answers", status, detail);
    match (&facts.host.server, &facts.host.local, &facts.machine) {
        (ServerState::Answers(_), _, _) => found(
            Status::Ok,
            format!("Incus answers at {}", endpoint(options)),
        ),
        (ServerState::Denied(reason), Some(_), Some(machine)) if machine.admin_listed => {
            found(Status::Problem, reason.clone())
                .fix("log in again: your membership in the group incus-admin is not in force yet")
        }
        (ServerState::Denied(reason), Some(_), machine) => {
            let user = machine.as_ref().map_or("$USER", |m| m.user.as_str());
            found(Status::Problem, reason.clone()).fix(format!(
                "sudo usermod -aG incus-admin {user}, then log in again \
                 (members of that group are as good as root on this machine)"
            ))
        }
        (ServerState::Denied(reason), None, _) => found(Status::Problem, reason.clone()).fix(
            "add this client's certificate on the server: incus config trust add-certificate FILE",
        ),
        (ServerState::Silent(reason), None, _) => found(Status::Problem, reason.clone())
            .fix("check incus.remote, and on the server `incus config get core.https_address`"),
        (ServerState::Silent(_), Some(local), _) if local.incusd.is_none() => {
            found(Status::Problem, "Incus is not installed here".into()).fix(SETUP)
        }
        (ServerState::Silent(reason), Some(local), machine) => {
            let stale = machine.as_ref().is_some_and(|m| m.socket_exists);
            found(
                Status::Problem,
                match local.daemon_pid {
                    Some(pid) => format!("process {pid} is running and does not answer: {reason}"),
                    None if stale => format!("Incus is installed and not running: {reason}"),
                    None => "Incus is installed and not running".into(),
                },
            )
            .fix(SETUP)
        }
    }
}

fn endpoint(options: &Options) -> String {
    match &options.endpoint {
        crate::backend::incus::Endpoint::Unix(path) => path.display().to_string(),
        crate::backend::incus::Endpoint::Https(remote) => remote.url.clone(),
    }
}

pub fn skipped() -> Vec<Check> {
    ALL.iter()
        .map(|(id, title)| Check::new(id, title, Status::Skipped, "Incus does not answer"))
        .collect()
}

pub fn server(server: &ServerFacts, facts: &Facts, options: &Options) -> Vec<Check> {
    let judged = [
        version(server),
        extensions(server),
        pool(server, options),
        space(facts),
        network(server, options),
        image(facts, options),
    ];
    ALL.iter()
        .zip(judged)
        .map(|((id, title), (status, detail, fix))| Check {
            fix,
            ..Check::new(id, title, status, detail)
        })
        .collect()
}

type Verdict = (Status, String, Option<String>);

fn ok(detail: impl Into<String>) -> Verdict {
    (Status::Ok, detail.into(), None)
}

fn bad(status: Status, detail: impl Into<String>, fix: impl Into<String>) -> Verdict {
    (status, detail.into(), Some(fix.into()))
}

fn version(server: &ServerFacts) -> Verdict {
    let mut parts = server.version.split('.').map(|part| part.parse().ok());
    let major: Option<u32> = parts.next().flatten();
    let minor: u32 = parts.next().flatten().unwrap_or(0);
    match major {
        Some(major) if (major, minor) >= OLDEST => ok(format!("Incus {}", server.version)),
        Some(_) => bad(
            Status::Problem,
            format!("Incus {} is older than 6.0", server.version),
            "upgrade Incus",
        ),
        None => bad(
            Status::Warning,
            format!("a version that says nothing: {:?}", server.version),
            "use a release of Incus, 6.0 or newer",
        ),
    }
}

fn extensions(server: &ServerFacts) -> Verdict {
    let lacks = |name: &&&str| !server.extensions.iter().any(|have| have == **name);
    let missing: Vec<&str> = EXTENSIONS.iter().filter(lacks).copied().collect();
    if missing.is_empty() {
        ok(format!("all {} API extensions", EXTENSIONS.len()))
    } else {
        bad(
            Status::Problem,
            format!("missing API extensions: {}", missing.join(", ")),
            "upgrade Incus to 6.0 or newer",
        )
    }
}

fn pool(server: &ServerFacts, options: &Options) -> Verdict {
    let named = options.pool.as_deref();
    let Some(pool) = server.usable_pool(named) else {
        let detail = match named {
            Some(name) => format!("there is no usable pool {name}"),
            None => "there is no usable pool".into(),
        };
        return bad(Status::Problem, detail, SETUP);
    };
    let thick = pool
        .config
        .get("lvm.use_thinpool")
        .is_some_and(|v| v == "false");
    if pool.driver == "dir" || thick {
        return bad(
            Status::Warning,
            format!(
                "{} ({}) copies everything: clones and checkpoints are slow and large",
                pool.name, pool.driver
            ),
            "create a copy-on-write pool and name it in the settings: \
             incus storage create NAME btrfs",
        );
    }
    ok(format!("{} ({}, copy on write)", pool.name, pool.driver))
}

fn space(facts: &Facts) -> Verdict {
    let space = match &facts.space {
        None => return (Status::Skipped, "there is no pool".into(), None),
        Some(Err(reason)) => return (Status::Skipped, reason.clone(), None),
        Some(Ok(Space { total: 0, .. })) => {
            return (Status::Skipped, "the pool does not tell".into(), None);
        }
        Some(Ok(space)) => *space,
    };
    let free = space.total.saturating_sub(space.used);
    let detail = format!("{} free of {}", gib(free), gib(space.total));
    let fix = "destroy pixels or checkpoints that are no longer needed, or enlarge the pool: \
               incus storage set POOL size=SIZE";
    if free < GIB {
        bad(Status::Problem, detail, fix)
    } else if free < (5 * GIB).min(space.total / 10) {
        bad(Status::Warning, detail, fix)
    } else {
        ok(detail)
    }
}

fn gib(bytes: u64) -> String {
    let tenths = bytes / (GIB / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

fn network(server: &ServerFacts, options: &Options) -> Verdict {
    let named = options.network.as_deref();
    let Some(network) = server.usable_network(named) else {
        let detail = match named {
            Some(name) => format!("there is no network {name}"),
            None => "there is no managed bridge".into(),
        };
        return bad(Status::Problem, detail, SETUP);
    };
    let name = &network.name;
    if !network.managed {
        return ok(format!(
            "{name} is not managed by Incus: addresses come from your network"
        ));
    }
    if !matches!(network.status.as_str(), "Created" | "") {
        return bad(
            Status::Problem,
            format!("{name} is {}", network.status),
            format!("incus network info {name}"),
        );
    }
    if network.kind == "bridge" && !network.has_dhcp() {
        return bad(
            Status::Problem,
            format!("{name} gives out no IPv4 addresses"),
            format!("incus network set {name} ipv4.address=auto ipv4.dhcp=true"),
        );
    }
    let address = network
        .config
        .get("ipv4.address")
        .map_or("", String::as_str);
    ok(format!("{name} {address}").trim_end().to_owned())
}

fn image(facts: &Facts, options: &Options) -> Verdict {
    let image = &options.image;
    match image_state(&facts.host, options) {
        ImageState::Local => ok(format!("{image} is on the server")),
        ImageState::Download => ok(format!(
            "{image} is downloaded from {} when first needed",
            options.image_server
        )),
        ImageState::StandIn(alias) => ok(format!(
            "{image} is not on the server: {alias} stands in where it cannot be downloaded"
        )),
        ImageState::Missing => {
            let why = match &facts.host.image_server {
                Reachability::Unreachable(reason) => {
                    format!(", and {} does not answer: {reason}", options.image_server)
                }
                _ => String::new(),
            };
            bad(
                Status::Problem,
                format!("{image} is not on the server{why}"),
                if can_stand_in(&facts.host, options) {
                    SETUP.to_owned()
                } else {
                    format!("incus image import METADATA ROOTFS --alias {image}")
                },
            )
        }
    }
}
