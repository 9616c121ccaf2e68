use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;
use crate::backend::incus::{Endpoint, Remote};
use crate::host::facts::{LocalFacts, Network, OsRelease, Pool, Reach, ServerFacts};
use crate::host::sources::parse_deb822;

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

fn options() -> Options {
    Options::new(
        Endpoint::Unix("/var/lib/incus/unix.socket".into()),
        "ubuntu/24.04",
        "https://images.test",
    )
}

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
            id_limit: 4_294_967_295,
            btrfs: true,
            free_disk: 100 * GIB,
            routes: vec!["10.64.0.0/24".parse().unwrap()],
            interfaces: vec!["lo".into(), "eth0".into()],
            ..LocalFacts::default()
        }),
        server: ServerState::Silent("the socket does not exist".into()),
        image_server: Reach::Unreachable("no answer within 4 s".into()),
    }
}

fn ready() -> ServerFacts {
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

fn answering(server: ServerFacts) -> HostFacts {
    let mut facts = bare();
    facts.server = ServerState::Answers(Box::new(server));
    settle(&mut facts);
    facts
}

/// Nothing is left to do on the machine itself.
fn settle(facts: &mut HostFacts) {
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

#[test]
fn bare_debian_12_without_systemd_gets_everything_in_order() {
    let plan = plan(&bare(), &options());
    assert_eq!(
        ids(&plan),
        [
            Backports, Packages, Subuid, Subgid, Lxcfs, Daemon, Pool, Network, Image
        ]
    );
    assert_eq!(plan.warnings, [""; 0]);
    assert_eq!(plan.blocked(), None);
    let backports = preview(&plan, Backports);
    assert!(backports.contains("/etc/apt/sources.list.d/pixels-backports.sources"));
    assert!(backports.contains("URIs: http://mirror.test/debian\n"));
    assert!(backports.contains("Suites: bookworm-backports"));
    let packages = preview(&plan, Packages);
    assert!(packages.contains(
        "install -y --no-install-recommends -t bookworm-backports incus-base btrfs-progs nftables \
         dnsmasq-base uidmap attr rsync squashfs-tools lxcfs debootstrap"
    ));
    assert!(packages.starts_with("DEBIAN_FRONTEND=noninteractive apt-get "));
    assert_eq!(
        preview(&plan, Subuid),
        "echo root:1000000:1000000000 >>/etc/subuid"
    );
    assert_eq!(
        preview(&plan, Daemon),
        "setsid /usr/libexec/incus/incusd --group incus-admin --logfile \
         /var/log/incus/incusd.log </dev/null >>/var/log/incus/incusd.err 2>&1 &"
    );
    assert!(preview(&plan, Pool).contains(r#""driver":"btrfs""#));
    assert!(preview(&plan, Pool).contains(r#""size":"20GiB""#));
    let network = preview(&plan, Network);
    assert!(
        network.contains(r#""ipv4.address":"10.64.1.1/24""#),
        "{network}"
    );
    assert!(network.contains(r#""name":"incusbr0""#));
    let image = preview(&plan, Image);
    assert!(image.contains("--suite bookworm --mirror http://mirror.test/debian "));
    assert!(image.contains("Suites: bookworm-security"));
    assert!(image.contains("import both files as pixels/debian-12"));
}

#[test]
fn systemd_starts_the_daemon_where_it_runs() {
    let mut facts = bare();
    facts.local.as_mut().unwrap().systemd = true;
    let with = plan(&facts, &options());
    assert!(!ids(&with).contains(&Lxcfs));
    assert_eq!(
        preview(&with, Daemon),
        "systemctl enable --now incus.socket incus.service"
    );
    facts.local.as_mut().unwrap().incus_dir = "/srv/other".into();
    let elsewhere = preview(&plan(&facts, &options()), Daemon);
    assert!(
        elsewhere.starts_with("INCUS_DIR=/srv/other setsid "),
        "a directory of its own is no service: {elsewhere}"
    );
}

#[test]
fn what_the_user_has_set_up_is_kept() {
    let facts = answering(ready());
    let plan = plan(&facts, &options());
    assert!(plan.is_empty(), "{:?}", ids(&plan));
    assert!(
        plan.warnings[0].contains("new pixels are made from pixels/debian-12"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn a_reachable_image_server_or_an_alias_leaves_nothing_to_build() {
    let mut facts = answering(ready());
    let ServerState::Answers(server) = &mut facts.server else {
        unreachable!()
    };
    server.aliases.clear();
    facts.image_server = Reach::Reachable { clock_ahead: None };
    assert_eq!(image_state(&facts, &options()), ImageState::Download);
    assert!(plan(&facts, &options()).is_empty());
    let mut own = ready();
    own.aliases = vec!["ubuntu/24.04".into()];
    let facts = answering(own);
    assert!(!asks_image_server(&facts, &options()));
    let plan = plan(&facts, &options());
    assert!(plan.is_empty() && plan.warnings.is_empty());
}

#[test]
fn only_the_tools_of_what_is_left_are_installed() {
    let mut server = ready();
    server.aliases.clear();
    let plan = plan(&answering(server), &options());
    assert_eq!(ids(&plan), [Packages, Image]);
    let packages = preview(&plan, Packages);
    assert!(packages.ends_with("--no-install-recommends squashfs-tools debootstrap"));
}

#[test]
fn an_image_the_user_named_is_never_replaced() {
    let mut options = options();
    options.image = "mine/1".into();
    options.image_is_default = false;
    let plan = plan(&answering(ready()), &options);
    assert_eq!(ids(&plan), [Image]);
    assert!(plan.blocked().is_some());
    options.image = "pixels/debian-12".into();
    let mut server = ready();
    server.aliases.clear();
    let built = super::plan(&answering(server), &options);
    assert!(matches!(
        step(&built, Image).action,
        Action::BuildImage { .. }
    ));
}

#[test]
fn without_root_the_first_step_that_needs_it_is_where_it_stops() {
    let mut facts = bare();
    facts.local.as_mut().unwrap().root = false;
    let bare = plan(&facts, &options());
    assert_eq!(ids(&bare)[..2], [Privilege, Backports]);
    assert!(preview(&bare, Privilege).contains("sudo pixels setup"));

    let mut server = ready();
    server.pools.clear();
    server.aliases.clear();
    facts.server = ServerState::Answers(Box::new(server));
    settle(&mut facts);
    let local = facts.local.as_mut().unwrap();
    local.packages = packages::present(|_| Some(PathBuf::new()));
    let member = plan(&facts, &options());
    assert_eq!(
        ids(&member),
        [Pool, Privilege, Image],
        "a member of the group may make a pool, and not build an image"
    );
}

#[test]
fn a_refusal_is_all_there_is_to_say() {
    let mut facts = bare();
    facts.server = ServerState::Denied("permission denied".into());
    let plan = plan(&facts, &options());
    assert_eq!(ids(&plan), [Access]);
    assert!(preview(&plan, Access).contains("usermod -aG incus-admin"));
}

#[test]
fn a_remote_gets_pool_and_bridge_and_no_local_steps() {
    let mut options = options();
    options.endpoint = Endpoint::Https(Remote {
        url: "https://box.test:8443".into(),
        client_cert: None,
        client_key: None,
        server_cert: None,
        insecure: false,
    });
    let mut server = ready();
    server.pools.clear();
    server.networks.clear();
    server.aliases.clear();
    server.addresses = vec!["10.64.0.7/16".parse().unwrap()];
    let mut facts = answering(server);
    facts.local = None;
    let made = plan(&facts, &options);
    assert_eq!(ids(&made), [Pool, Network, Image]);
    assert!(preview(&made, Network).contains("10.65.0.1/24"));
    assert!(matches!(step(&made, Image).action, Action::Blocked { .. }));
    facts.server = ServerState::Silent("connection refused".into());
    assert_eq!(ids(&plan(&facts, &options)), [Access]);
}

#[test]
fn a_daemon_that_is_starting_is_waited_for() {
    let mut facts = bare();
    facts.local.as_mut().unwrap().daemon_pid = Some(42);
    let plan = plan(&facts, &options());
    assert_eq!(preview(&plan, Daemon), "wait for process 42 to answer");
    assert!(!ids(&plan).contains(&Backports), "{:?}", ids(&plan));
}

#[test]
fn without_btrfs_a_directory_pool_and_a_warning() {
    let mut facts = bare();
    facts.local.as_mut().unwrap().btrfs = false;
    let plan = plan(&facts, &options());
    assert!(preview(&plan, Pool).contains(r#""driver":"dir""#));
    assert!(plan.warnings[0].contains("no btrfs"));
    assert!(!preview(&plan, Packages).contains("btrfs-progs"));
}

#[test]
fn the_pool_leaves_room_on_the_disk() {
    let size = |free: u64| {
        let mut facts = bare();
        facts.local.as_mut().unwrap().free_disk = free * GIB;
        preview(&plan(&facts, &options()), Pool)
    };
    assert!(size(10).contains(r#""size":"8GiB""#), "{}", size(10));
    assert!(size(4).contains(r#""size":"4GiB""#));
    assert!(size(3).contains("not possible"));
}

#[test]
fn named_pool_and_bridge_are_made_under_their_names() {
    let mut options = options();
    options.pool = Some("ssd".into());
    options.network = Some("br9".into());
    let made = plan(&answering(ready()), &options);
    assert_eq!(ids(&made), [Packages, Pool, Network]);
    assert!(preview(&made, Pool).contains(r#""name":"ssd""#));
    assert!(preview(&made, Network).contains(r#""name":"br9""#));
    let mut server = ready();
    server.clustered = true;
    let cluster = plan(&answering(server), &options);
    assert!(preview(&cluster, Pool).contains("--target"));
}

#[test]
fn a_bridge_name_that_is_taken_is_passed_over() {
    let mut facts = bare();
    let local = facts.local.as_mut().unwrap();
    local.interfaces.push("incusbr0".into());
    let plan = plan(&facts, &options());
    assert!(preview(&plan, Network).contains(r#""name":"incusbr1""#));
}

#[test]
fn other_systems_are_told_what_to_do() {
    let on = |id: &str, version: &str, change: &dyn Fn(&mut LocalFacts)| {
        let mut facts = bare();
        let local = facts.local.as_mut().unwrap();
        local.os.id = id.into();
        local.os.version_id = version.into();
        local.os.codename = "other".into();
        change(local);
        plan(&facts, &options())
    };
    let fedora = on("fedora", "42", &|local| local.apt = false);
    assert!(preview(&fedora, Packages).contains("package manager"));
    let old = on("ubuntu", "22.04", &|_| {});
    assert!(preview(&old, Packages).contains("offer no Incus"));
    let known = on("ubuntu", "22.04", &|local| local.apt_has_incus = true);
    assert!(preview(&known, Packages).contains("incus-base"));
    for (id, version) in [("debian", "13"), ("debian", ""), ("ubuntu", "24.04")] {
        let new = on(id, version, &|_| {});
        assert!(!ids(&new).contains(&Backports));
        assert!(!preview(&new, Packages).contains(" -t "));
    }
    let mac = on("", "", &|local| local.linux = false);
    assert!(preview(&mac, Packages).contains("incus.remote"));
}

#[test]
fn an_interrupted_installation_is_finished_first() {
    let mut facts = bare();
    facts.local.as_mut().unwrap().unfinished = vec!["lxcfs".into()];
    let plan = plan(&facts, &options());
    assert_eq!(ids(&plan)[..3], [Backports, Repair, Packages]);
    assert!(preview(&plan, Repair).contains("dpkg --configure -a"));
}

#[test]
fn backports_that_are_there_are_used_and_not_added() {
    let mut facts = bare();
    let local = facts.local.as_mut().unwrap();
    let mut own = local.sources[0].clone();
    own.suites = vec!["bookworm-backports".into()];
    local.sources.push(own);
    let plan = plan(&facts, &options());
    assert_eq!(ids(&plan)[0], Packages);
    assert!(preview(&plan, Packages).contains("-t bookworm-backports"));
}
