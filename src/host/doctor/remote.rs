//! Checks of the Incus server, local or remote.

use super::{
    Check, Facts, Machine, Space, Status, TEMPLATES_CVE, Verdict, all_skipped, checks, ok, problem,
    skipped, warning,
};
use crate::backend::incus::{Endpoint, SIMPLE_QUOTAS, has_cheap_limits};
use crate::host::facts::{Reachability, ServerFacts, ServerState, has_dhcp};
use crate::host::plan::{ImageState, can_build_fallback, image_state};
use crate::host::{INCUS_DIR, Options};

const SETUP: &str = "sudo pixels setup";
const OLDEST: (u32, u32) = (6, 0);
/// API extensions that pixels needs and some builds of Incus 6.0 lack.
pub(super) const EXTENSIONS: &[&str] = &[
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

/// Identifier and title of every check of the server, in order.
const NAMES: &[(&str, &str)] = &[
    ("version", "Incus version"),
    ("extensions", "Incus API extensions"),
    ("templates", "templates of other instances"),
    ("pool", "storage pool"),
    ("pool-space", "space in the storage pool"),
    ("disk-limits", "disk limits of pixels"),
    ("network", "network with DHCP"),
    ("image", "default image"),
];

pub fn check_access(facts: &Facts, options: &Options) -> Check {
    let check = |status, detail: String| Check::new("access", "Incus answers", status, detail);
    let problem = |detail: &str| check(Status::Problem, detail.to_owned());
    match (&facts.host.server, &facts.host.local, &facts.machine) {
        (ServerState::Ready(_), _, _) => {
            let address = match &options.endpoint {
                Endpoint::Unix(path) => path.display().to_string(),
                Endpoint::Https(remote) => remote.url.clone(),
            };
            check(Status::Ok, format!("Incus answers at {address}"))
        }
        (ServerState::Denied(reason), Some(_), Some(machine)) if machine.admin_listed => {
            problem(reason)
                .fix("log in again: your membership in the group incus-admin is not yet in effect")
        }
        (ServerState::Denied(reason), Some(_), machine) => {
            let user = machine.as_ref().map_or("$USER", |m| m.user.as_str());
            problem(reason).fix(format!(
                "sudo usermod -aG incus-admin {user}, then log in again \
                 (members of that group are as good as root on this machine)"
            ))
        }
        (ServerState::Denied(reason), None, _) => problem(reason).fix(
            "add this client's certificate on the server: incus config trust add-certificate FILE",
        ),
        (ServerState::Unreachable(reason), None, _) => problem(reason)
            .fix("check incus.remote, and on the server `incus config get core.https_address`"),
        (ServerState::Unreachable(_), Some(local), _) if local.incusd.is_none() => {
            problem("Incus is not installed on this machine").fix(SETUP)
        }
        (ServerState::Unreachable(reason), Some(local), machine) => {
            let stale_socket = machine.as_ref().is_some_and(|m| m.socket_exists);
            let detail = match local.daemon_pid {
                Some(pid) => format!("process {pid} is running and does not answer: {reason}"),
                None if stale_socket => format!("Incus is installed but not running: {reason}"),
                None => "Incus is installed but not running".into(),
            };
            problem(&detail).fix(SETUP)
        }
    }
}

pub fn check_server(facts: &Facts, options: &Options) -> Vec<Check> {
    let Some(server) = facts.host.server.facts() else {
        return all_skipped(NAMES, "Incus does not answer");
    };
    let verdicts = [
        version(server),
        extensions(server),
        templates(server, facts.machine.as_ref()),
        pool(server, options),
        space(facts),
        disk_limits(server, options),
        network(server, options),
        image(facts, options),
    ];
    checks(NAMES, verdicts)
}

/// Returns major, minor and patch number. Missing numbers are 0.
fn version_numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let major = parts.next().flatten()?;
    let mut next = || parts.next().flatten().unwrap_or(0);
    Some((major, next(), next()))
}

/// pixels removes the templates of its own instances.
fn templates(server: &ServerFacts, machine: Option<&Machine>) -> Verdict {
    let is_fixed = match version_numbers(&server.version) {
        Some((6, 0, patch)) => patch >= 6,
        Some(numbers) => numbers >= (6, 21, 0),
        None => return skipped("unrecognized Incus version"),
    };
    if is_fixed || machine.is_some_and(|machine| machine.templates_fixed) {
        return ok(format!("{TEMPLATES_CVE} is fixed"));
    }
    let detail = format!(
        "Incus {} follows symlinks of instances when it writes templates, unless the distribution \
         has fixed {TEMPLATES_CVE}; pixels are not affected",
        server.version
    );
    match machine {
        Some(_) => warning(detail, "upgrade Incus to 6.0.6, 6.21 or newer"),
        // A fix of the distribution is not visible in the version.
        None => skipped(detail),
    }
}

fn version(server: &ServerFacts) -> Verdict {
    match version_numbers(&server.version) {
        Some((major, minor, _)) if (major, minor) >= OLDEST => {
            ok(format!("Incus {}", server.version))
        }
        Some(_) => problem(
            format!("Incus {} is older than 6.0", server.version),
            "upgrade Incus",
        ),
        None => warning(
            format!("unrecognized Incus version {:?}", server.version),
            "use a release of Incus, 6.0 or newer",
        ),
    }
}

fn extensions(server: &ServerFacts) -> Verdict {
    let missing: Vec<&str> = EXTENSIONS
        .iter()
        .filter(|name| !server.extensions.iter().any(|present| present == **name))
        .copied()
        .collect();
    if missing.is_empty() {
        ok(format!("all {} required extensions", EXTENSIONS.len()))
    } else {
        problem(
            format!("missing API extensions: {}", missing.join(", ")),
            "upgrade Incus to 6.0 or newer",
        )
    }
}

fn pool(server: &ServerFacts, options: &Options) -> Verdict {
    let named = options.pool.as_deref();
    let Some(pool) = server.usable_pool(named) else {
        let detail = match named {
            Some(name) => format!("no usable pool {name}"),
            None => "no usable pool".into(),
        };
        return problem(detail, SETUP);
    };
    let thick = pool
        .config
        .get("lvm.use_thinpool")
        .is_some_and(|v| v == "false");
    if pool.driver == "dir" || thick {
        return warning(
            format!(
                "{} ({}) is not copy-on-write: clones and checkpoints are slow and large",
                pool.name, pool.driver
            ),
            "create a copy-on-write pool and set it in the configuration: \
             incus storage create NAME btrfs",
        );
    }
    ok(format!("{} ({}, copy-on-write)", pool.name, pool.driver))
}

fn space(facts: &Facts) -> Verdict {
    let space = match &facts.space {
        None => return skipped("no usable pool"),
        Some(Err(reason)) => return skipped(reason),
        Some(Ok(Space { total: 0, .. })) => return skipped("the pool does not report its size"),
        Some(Ok(space)) => *space,
    };
    let free = space.total.saturating_sub(space.used);
    let detail = format!("{} free of {}", gib(free), gib(space.total));
    let fix = "delete pixels or checkpoints, or enlarge the pool: \
               incus storage set POOL size=SIZE";
    if free < GIB {
        problem(detail, fix)
    } else if free < (5 * GIB).min(space.total / 10) {
        warning(detail, fix)
    } else {
        ok(detail)
    }
}

fn disk_limits(server: &ServerFacts, options: &Options) -> Verdict {
    let Some(pool) = server.usable_pool(options.pool.as_deref()) else {
        return skipped("no usable pool");
    };
    let name = &pool.name;
    if has_cheap_limits(pool) {
        return ok(format!("defaults.disk limits new pixels on {name}"));
    }
    let detail = format!("defaults.disk does not limit pixels on {name}: one pixel can fill it");
    match pool.driver.as_str() {
        "btrfs" => warning(
            detail,
            format!(
                "on the server (Linux 6.7 and btrfs-progs 6.7 or later): btrfs quota enable \
                 --simple {INCUS_DIR}/storage-pools/{name} && incus storage set {name} \
                 {SIMPLE_QUOTAS}=true"
            ),
        ),
        _ => (Status::Warning, detail, None),
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
            Some(name) => format!("no network {name}"),
            None => "no managed bridge".into(),
        };
        return problem(detail, SETUP);
    };
    let name = &network.name;
    if !network.managed {
        return ok(format!(
            "{name} is not managed by Incus: your network assigns addresses"
        ));
    }
    if !matches!(network.status.as_str(), "Created" | "") {
        return problem(
            format!("{name} is {}", network.status),
            format!("incus network info {name}"),
        );
    }
    if network.kind == "bridge" && !has_dhcp(network) {
        return problem(
            format!("{name} assigns no IPv4 addresses"),
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
            "{image} will be downloaded from {} when first needed",
            options.image_server
        )),
        ImageState::Fallback(alias) => ok(format!(
            "{image} is not on the server; {alias} is used if it cannot be downloaded"
        )),
        ImageState::Missing => {
            let cause = match &facts.host.image_server {
                Reachability::Unreachable(reason) => {
                    format!(", and cannot reach {}: {reason}", options.image_server)
                }
                _ => String::new(),
            };
            let fix = match can_build_fallback(&facts.host, options) {
                true => SETUP.to_owned(),
                false => format!("incus image import METADATA ROOTFS --alias {image}"),
            };
            problem(format!("{image} is not on the server{cause}"), fix)
        }
    }
}
