//! Steps the daemon does, and the image.

use super::*;

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
    facts.image_server = Reachability::Reachable { clock_ahead: None };
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
