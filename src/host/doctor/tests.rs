use super::*;
use crate::host::facts::{LocalFacts, ServerState};
use crate::host::plan::tests::{kernel_limits, options, ready, remote_options};

const GIB: u64 = 1 << 30;

fn server() -> ServerFacts {
    ServerFacts {
        extensions: remote::EXTENSIONS.iter().map(|&e| e.into()).collect(),
        aliases: vec!["ubuntu/24.04".into()],
        ..ready()
    }
}

fn port(fault: Option<&'static str>) -> PortFacts {
    PortFacts {
        instance: "px-a".into(),
        fault,
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
                kernel_limits: kernel_limits(),
                ..LocalFacts::default()
            }),
            server: ServerState::Ready(Box::new(server())),
            image_server: Reachability::NotChecked,
        },
        space: Some(Ok(Space {
            used: GIB,
            total: 20 * GIB,
        })),
        ports: Ok(vec![port(None)]),
        machine: Some(Machine {
            socket_exists: true,
            user: "me".into(),
            ip_forward: true,
            templates_fixed: true,
            ..Machine::default()
        }),
        clock: Clock::AheadOfServer(1),
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
        facts.host.server = ServerState::Ready(Box::new(changed));
    })
}

#[test]
fn healthy_host_passes_all_checks() {
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
fn every_fault_has_its_status_and_a_fix() {
    use Status::{Problem, Warning};
    fn local(change: impl FnOnce(&mut LocalFacts)) -> Vec<Check> {
        with(|f| change(f.host.local.as_mut().unwrap()))
    }
    fn machine(change: impl FnOnce(&mut Machine)) -> Vec<Check> {
        with(|f| change(f.machine.as_mut().unwrap()))
    }
    fn space(used: u64, total: u64) -> Vec<Check> {
        with(|f| {
            f.space = Some(Ok(Space {
                used: used * GIB,
                total: total * GIB,
            }));
        })
    }
    fn no_dhcp(server: &mut ServerFacts) {
        let config = &mut server.networks[0].config;
        config.insert("ipv4.dhcp".into(), "false".into());
    }
    #[track_caller]
    fn expect(id: &str, status: Status, checks: Vec<Check>) {
        let check = find(&checks, id);
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.fix.is_some(), "{check:?}");
        let code = if status == Problem { 2 } else { 1 };
        assert_eq!(exit_code(&checks), code);
    }
    let old = |s: &mut ServerFacts| s.version = "5.21".into();
    expect("version", Problem, with_server(old));
    let unfixed = |version: &str| {
        let mut changed = healthy();
        changed.machine.as_mut().unwrap().templates_fixed = false;
        let server = ServerFacts {
            version: version.into(),
            ..server()
        };
        changed.host.server = ServerState::Ready(Box::new(server));
        judge(&changed, &options())
    };
    for version in ["6.0.5", "6.1", "6.20"] {
        expect("templates", Warning, unfixed(version));
    }
    for version in ["6.0.6", "6.21", "7.0"] {
        assert_eq!(exit_code(&unfixed(version)), 0, "{version}");
    }
    let btrfs = |s: &mut ServerFacts| s.pools[0].driver = "btrfs".into();
    expect("disk-limits", Warning, with_server(btrfs));
    expect("extensions", Problem, with_server(|s| s.extensions.clear()));
    expect("pool", Problem, with_server(|s| s.pools.clear()));
    let dir = |s: &mut ServerFacts| s.pools[0].driver = "dir".into();
    expect("pool", Warning, with_server(dir));
    expect("pool-space", Problem, space(20, 20));
    expect("pool-space", Warning, space(38, 40));
    expect("network", Problem, with_server(|s| s.networks.clear()));
    expect("network", Problem, with_server(no_dhcp));
    expect("image", Problem, with_server(|s| s.aliases.clear()));
    let learns = |f: &mut Facts| f.ports = Ok(vec![port(None), port(Some("learns"))]);
    expect("ports", Warning, with(learns));
    let behind_server = |f: &mut Facts| f.clock = Clock::AheadOfServer(-4000);
    expect("clock", Warning, with(behind_server));
    let behind_files = |f: &mut Facts| f.clock = Clock::BehindFiles(4000);
    expect("clock", Warning, with(behind_files));
    expect("subids", Problem, local(|l| l.subgid.clear()));
    expect("lxcfs", Warning, local(|l| l.lxcfs_mounted = false));
    let filtered = machine(|m| m.bridge_calls_iptables = true);
    expect("bridge-filter", Warning, filtered);
    expect("forwarding", Problem, machine(|m| m.ip_forward = false));
    let no_namespaces = machine(|m| m.user_namespaces = Some(0));
    expect("namespaces", Problem, no_namespaces);
    let low_limit = local(|l| l.kernel_limits[0].value = Some(128));
    let detail = &find(&low_limit, "kernel-limits").detail;
    assert!(detail.starts_with("fs.inotify.max_user_instances is 128: "));
    expect("kernel-limits", Warning, low_limit);
    expect("kernel-limits", Warning, machine(|m| m.keys = Some(100)));
}

#[test]
fn fallback_image_passes_and_is_named() {
    let checks = with_server(|s| s.aliases = vec!["pixels/debian-12".into()]);
    let image = find(&checks, "image");
    assert_eq!(image.status, Status::Ok);
    assert!(image.detail.contains("pixels/debian-12 is used"));
}

#[test]
fn unreachable_daemon_is_one_problem_and_skips_its_checks() {
    let unreachable = |change: &dyn Fn(&mut Facts)| {
        with(|facts| {
            facts.host.server = ServerState::Unreachable("connection refused".into());
            facts.space = None;
            change(facts);
        })
    };
    let down = unreachable(&|_| {});
    assert_eq!(exit_code(&down), 2);
    assert!(find(&down, "access").detail.contains("not running"));
    assert_eq!(find(&down, "pool").status, Status::Skipped);
    let absent = unreachable(&|facts| facts.host.local.as_mut().unwrap().incusd = None);
    let access = find(&absent, "access");
    assert!(access.detail.contains("not installed"));
    assert_eq!(access.fix.as_deref(), Some("sudo pixels setup"));
}

#[test]
fn denied_access_names_the_group_or_a_new_login() {
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
fn remote_server_skips_checks_of_the_machine() {
    let mut facts = healthy();
    facts.host.local = None;
    facts.machine = None;
    let checks = judge(&facts, &remote_options());
    assert_eq!(exit_code(&checks), 0);
    for id in ["subids", "namespaces", "forwarding", "bridge-filter"] {
        assert_eq!(find(&checks, id).status, Status::Skipped);
    }
    assert_eq!(find(&checks, "pool").status, Status::Ok);
}

#[tokio::test]
async fn checks_of_the_caller_are_appended() {
    let mut options = options();
    options.endpoint = Endpoint::Unix("/nonexistent/incus.socket".into());
    options.image_server = "https://127.0.0.1:1".into();
    let extra = Check::new("leftovers", "leftovers", Status::Warning, "one");
    let checks = doctor(&options, vec![extra.clone()]).await;
    assert_eq!(checks.last(), Some(&extra));
    assert_eq!(find(&checks, "access").status, Status::Problem);
}

#[test]
fn json_has_lower_case_status_and_omits_missing_fix() {
    let check = Check::new("clock", "clock", Status::Ok, "fine");
    assert_eq!(
        serde_json::to_string(&check).unwrap(),
        r#"{"id":"clock","title":"clock","status":"ok","detail":"fine"}"#
    );
}
