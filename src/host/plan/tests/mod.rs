mod local;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;
use crate::backend::incus::{Endpoint, Remote};
use crate::host::apt_sources::parse_deb822;
use crate::host::facts::{LocalFacts, Network, OsRelease, Pool, Reachability, ServerFacts};
use crate::host::kernel_limits::{KernelLimit, RECOMMENDED};
use crate::host::subnet;

const GIB: u64 = 1 << 30;
const SOURCES: &str = "\
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
";

pub fn options() -> Options {
    Options::new(
        Endpoint::Unix("/var/lib/incus/unix.socket".into()),
        "ubuntu/24.04",
        "https://images.test",
    )
}

/// Options for a remote server.
pub fn remote_options() -> Options {
    let mut options = options();
    options.endpoint = Endpoint::Https(Remote {
        url: "https://box.test:8443".into(),
        ..Remote::default()
    });
    options
}

/// Limits that are high enough.
pub fn kernel_limits() -> Vec<KernelLimit> {
    let limit = |&(key, recommended)| KernelLimit {
        key,
        recommended,
        value: Some(recommended),
        writable: true,
    };
    RECOMMENDED.iter().map(limit).collect()
}

/// The facts of a machine without Incus.
fn bare() -> HostFacts {
    HostFacts {
        local: Some(LocalFacts {
            linux: true,
            root: true,
            os: OsRelease {
                id: "debian".into(),
                pretty: "Debian GNU/Linux 12 (bookworm)".into(),
                version_id: "12".into(),
                codename: "bookworm".into(),
            },
            machine: "x86_64".into(),
            apt: true,
            sources: parse_deb822(SOURCES),
            packages: BTreeSet::from(["iproute2", "xz-utils"]),
            incus_dir: "/var/lib/incus".into(),
            fuse: true,
            kernel_limits: kernel_limits(),
            id_limit: 4_294_967_295,
            btrfs: true,
            free_disk: 100 * GIB,
            routes: vec!["10.64.0.0/24".parse().unwrap()],
            interfaces: vec!["lo".into(), "eth0".into()],
            ..LocalFacts::default()
        }),
        server: ServerState::Unreachable("the socket does not exist".into()),
        image_server: Reachability::Unreachable("no answer within 4 s".into()),
    }
}

/// The facts of a server that needs no step.
pub fn ready() -> ServerFacts {
    ServerFacts {
        version: "6.0.4".into(),
        drivers: vec!["dir".into(), "btrfs".into()],
        pools: vec![Pool {
            name: "fast".into(),
            driver: "zfs".into(),
            status: "Created".into(),
            config: BTreeMap::new(),
        }],
        networks: vec![Network {
            name: "br-own".into(),
            kind: "bridge".into(),
            managed: true,
            status: "Created".into(),
            config: BTreeMap::from([("ipv4.address".into(), "10.9.8.1/24".into())]),
        }],
        aliases: vec!["pixels/debian-12".into()],
        ..ServerFacts::default()
    }
}

/// The plan for a machine without Incus after `change`.
fn plan_with(change: impl FnOnce(&mut LocalFacts)) -> Plan {
    let mut facts = bare();
    change(facts.local.as_mut().unwrap());
    plan(&facts, &options())
}

fn answering(server: ServerFacts) -> HostFacts {
    let mut facts = bare();
    facts.server = ServerState::Ready(Box::new(server));
    prepare_machine(&mut facts);
    facts
}

/// Changes the facts so that no step on this machine is needed.
fn prepare_machine(facts: &mut HostFacts) {
    let local = facts.local.as_mut().unwrap();
    local.subuid = "root:1000000:1000000000\n".into();
    local.subgid = local.subuid.clone();
}

fn ids(plan: &Plan) -> Vec<StepId> {
    plan.steps.iter().map(|step| step.id).collect()
}

fn step(plan: &Plan, id: StepId) -> &Step {
    plan.steps.iter().find(|step| step.id == id).unwrap()
}

fn preview(plan: &Plan, id: StepId) -> String {
    step(plan, id).action.preview().join("\n")
}

use StepId::*;
