use std::collections::BTreeMap;

use super::*;
use crate::backend::incus::{Endpoint, Remote};
use crate::host::facts::{LocalFacts, Network, Pool};

const GIB: u64 = 1 << 30;

fn options() -> Options {
    Options::new(
        Endpoint::Unix("/var/lib/incus/unix.socket".into()),
        "ubuntu/24.04",
        "https://images.test",
    )
}

fn server() -> ServerFacts {
    ServerFacts {
        version: "6.0.4".into(),
        extensions: [
            "container_exec_user_group_cwd",
            "container_nic_ipfilter",
            "container_nic_routes",
            "instance_create_start",
            "instance_nic_bridged_port_isolation",
            "network_bridge_acl",
            "network_leases",
            "restrict_dev_incus",
            "snapshot_expiry_creation",
        ]
        .map(str::to_owned)
        .to_vec(),
        pools: vec![Pool {
            name: "default".into(),
            driver: "btrfs".into(),
            status: "Created".into(),
            config: BTreeMap::new(),
        }],
        networks: vec![Network {
            name: "incusbr0".into(),
            kind: "bridge".into(),
            managed: true,
            status: "Created".into(),
            config: BTreeMap::from([("ipv4.address".into(), "10.9.8.1/24".into())]),
        }],
        aliases: vec!["ubuntu/24.04".into()],
        ..ServerFacts::default()
    }
}

fn healthy() -> Facts {
    Facts {
        host: HostFacts {
            local: Some(LocalFacts {
                linux: true,
                incusd: Some("/usr/libexec/incus/incusd".into()),
                subuid: "root:1000000:1000000000\n".into(),
                subgid: "root:1000000:1000000000\n".into(),
                id_limit: 4_294_967_295,
                fuse: true,
                lxcfs_mounted: true,
                ..LocalFacts::default()
            }),
            server: ServerState::Answers(Box::new(server())),
            image_server: Reachability::NotAsked,
        },
        space: Some(Ok(Space {
            used: GIB,
            total: 20 * GIB,
        })),
        machine: Some(Machine {
            socket_exists: true,
            user: "me".into(),
            ip_forward: true,
            ..Machine::default()
        }),
        clock: Clock::Against(1),
    }
}

fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
    checks.iter().find(|check| check.id == id).unwrap()
}

fn with(change: impl FnOnce(&mut Facts)) -> Vec<Check> {
    let mut facts = healthy();
    change(&mut facts);
    judge(&facts, &options())
}

fn with_server(change: impl FnOnce(&mut ServerFacts)) -> Vec<Check> {
    with(|facts| {
        let mut changed = server();
        change(&mut changed);
        facts.host.server = ServerState::Answers(Box::new(changed));
    })
}

#[test]
fn a_healthy_host_has_nothing_to_mend() {
    let checks = with(|_| {});
    for check in &checks {
        assert_eq!(check.status, Status::Ok, "{check:?}");
        assert_eq!(check.fix, None);
    }
    assert_eq!(exit_code(&checks), 0);
    let ids: std::collections::BTreeSet<&str> = checks.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids.len(), checks.len(), "identifiers are unique");
}

#[test]
fn every_fault_has_its_status_and_a_way_out() {
    let cases = [
        (
            "version",
            Status::Problem,
            with_server(|s| s.version = "5.21".into()),
        ),
        (
            "extensions",
            Status::Problem,
            with_server(|s| s.extensions.clear()),
        ),
        ("pool", Status::Problem, with_server(|s| s.pools.clear())),
        (
            "pool",
            Status::Warning,
            with_server(|s| s.pools[0].driver = "dir".into()),
        ),
        (
            "network",
            Status::Problem,
            with_server(|s| s.networks.clear()),
        ),
        (
            "network",
            Status::Problem,
            with_server(|s| {
                s.networks[0]
                    .config
                    .insert("ipv4.dhcp".into(), "false".into());
            }),
        ),
        ("image", Status::Problem, with_server(|s| s.aliases.clear())),
        (
            "pool-space",
            Status::Problem,
            with(|f| {
                f.space = Some(Ok(Space {
                    used: 20 * GIB,
                    total: 20 * GIB,
                }))
            }),
        ),
        (
            "pool-space",
            Status::Warning,
            with(|f| {
                f.space = Some(Ok(Space {
                    used: 38 * GIB,
                    total: 40 * GIB,
                }))
            }),
        ),
        (
            "clock",
            Status::Warning,
            with(|f| f.clock = Clock::Against(-4000)),
        ),
        (
            "clock",
            Status::Warning,
            with(|f| f.clock = Clock::BehindFiles(4000)),
        ),
        (
            "subids",
            Status::Problem,
            with(|f| f.host.local.as_mut().unwrap().subgid.clear()),
        ),
        (
            "bridge-filter",
            Status::Warning,
            with(|f| f.machine.as_mut().unwrap().bridge_calls_iptables = true),
        ),
        (
            "forwarding",
            Status::Problem,
            with(|f| f.machine.as_mut().unwrap().ip_forward = false),
        ),
        (
            "namespaces",
            Status::Problem,
            with(|f| f.machine.as_mut().unwrap().user_namespaces = Some(0)),
        ),
        (
            "kernel-limits",
            Status::Warning,
            with(|f| f.machine.as_mut().unwrap().inotify = Some(128)),
        ),
        (
            "kernel-limits",
            Status::Warning,
            with(|f| f.machine.as_mut().unwrap().keys = Some(100)),
        ),
        (
            "lxcfs",
            Status::Warning,
            with(|f| f.host.local.as_mut().unwrap().lxcfs_mounted = false),
        ),
    ];
    for (id, status, checks) in cases {
        let check = find(&checks, id);
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.fix.is_some(), "{check:?}");
        assert_eq!(
            exit_code(&checks),
            if status == Status::Problem { 2 } else { 1 }
        );
    }
}

#[test]
fn a_stand_in_image_is_fine_and_said() {
    let checks = with_server(|s| s.aliases = vec!["pixels/debian-12".into()]);
    let image = find(&checks, "image");
    assert_eq!(image.status, Status::Ok);
    assert!(image.detail.contains("pixels/debian-12 stands in"));
}

#[test]
fn a_silent_daemon_is_one_problem_and_the_rest_is_skipped() {
    let silent = |change: &dyn Fn(&mut Facts)| {
        with(|facts| {
            facts.host.server = ServerState::Silent("connection refused".into());
            facts.space = None;
            change(facts);
        })
    };
    let down = silent(&|_| {});
    assert_eq!(exit_code(&down), 2);
    assert!(find(&down, "access").detail.contains("not running"));
    assert_eq!(find(&down, "pool").status, Status::Skipped);
    let absent = silent(&|facts| facts.host.local.as_mut().unwrap().incusd = None);
    assert!(find(&absent, "access").detail.contains("not installed"));
    assert_eq!(
        find(&absent, "access").fix.as_deref(),
        Some("sudo pixels setup")
    );
}

#[test]
fn a_refusal_names_the_group_or_the_new_login() {
    let denied = |listed: bool| {
        with(|facts| {
            facts.host.server = ServerState::Denied("permission denied".into());
            facts.machine.as_mut().unwrap().admin_listed = listed;
        })
    };
    let fix = |checks: &[Check]| find(checks, "access").fix.clone().unwrap();
    assert!(fix(&denied(false)).contains("usermod -aG incus-admin me"));
    assert!(fix(&denied(true)).starts_with("log in again"));
}

#[test]
fn a_remote_is_judged_by_what_it_tells() {
    let mut facts = healthy();
    facts.host.local = None;
    facts.machine = None;
    let mut options = options();
    options.endpoint = Endpoint::Https(Remote {
        url: "https://box.test:8443".into(),
        client_cert: None,
        client_key: None,
        server_cert: None,
        insecure: false,
    });
    let checks = judge(&facts, &options);
    assert_eq!(exit_code(&checks), 0);
    for id in ["subids", "namespaces", "forwarding", "bridge-filter"] {
        assert_eq!(find(&checks, id).status, Status::Skipped);
    }
    assert_eq!(find(&checks, "pool").status, Status::Ok);
}

#[tokio::test]
async fn the_callers_checks_count() {
    let mut options = options();
    options.endpoint = Endpoint::Unix("/nonexistent/incus.socket".into());
    options.image_server = "https://127.0.0.1:1".into();
    let extra = Check::new("leftovers", "leftovers", Status::Warning, "one");
    let checks = doctor(&options, vec![extra.clone()]).await;
    assert_eq!(checks.last(), Some(&extra));
    assert_eq!(find(&checks, "access").status, Status::Problem);
}

#[test]
fn json_is_lower_case_and_leaves_out_what_is_not_there() {
    let check = Check::new("clock", "clock", Status::Ok, "fine");
    assert_eq!(
        serde_json::to_string(&check).unwrap(),
        r#"{"id":"clock","title":"clock","status":"ok","detail":"fine"}"#
    );
}
