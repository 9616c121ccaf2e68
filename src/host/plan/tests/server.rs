//! Tests of the plan's steps on the Incus server, including the image.

use super::*;

#[test]
fn prepared_server_needs_no_steps() {
    let facts = answering(ready());
    let plan = plan(&facts, &options());
    assert!(plan.is_empty(), "{:?}", ids(&plan));
    assert!(
        plan.warnings[0].contains("new pixels use pixels/debian-12"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn reachable_image_server_or_alias_needs_no_build() {
    let mut facts = answering(ready());
    let ServerState::Ready(server) = &mut facts.server else {
        unreachable!()
    };
    server.aliases.clear();
    facts.image_server = Reachability::Reachable { clock_ahead: None };
    assert_eq!(image_state(&facts, &options()), ImageState::Download);
    assert!(plan(&facts, &options()).is_empty());
    let mut own = ready();
    own.aliases = vec!["ubuntu/24.04".into()];
    let facts = answering(own);
    assert!(!needs_image_server(&facts, &options()));
    let plan = plan(&facts, &options());
    assert!(plan.is_empty() && plan.warnings.is_empty());
}

#[test]
fn only_packages_of_remaining_steps_are_installed() {
    let mut server = ready();
    server.aliases.clear();
    let plan = plan(&answering(server), &options());
    assert_eq!(ids(&plan), [Packages, Image]);
    let packages = preview(&plan, Packages);
    assert!(packages.ends_with("--no-install-recommends squashfs-tools debootstrap"));
}

#[test]
fn configured_image_is_never_replaced() {
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
fn access_denied_blocks_all_steps() {
    let mut facts = bare();
    facts.server = ServerState::Denied("permission denied".into());
    let plan = plan(&facts, &options());
    assert_eq!(ids(&plan), [Access]);
    assert!(preview(&plan, Access).contains("usermod -aG incus-admin"));
}

#[test]
fn remote_server_gets_no_local_steps() {
    let options = remote_options();
    let mut server = ready();
    server.pools.clear();
    server.networks.clear();
    server.aliases.clear();
    server.addresses = vec![subnet::parse("10.64.0.7/16").unwrap()];
    let mut facts = answering(server);
    facts.local = None;
    let remote = plan(&facts, &options);
    assert_eq!(ids(&remote), [Pool, Network, Image]);
    assert!(preview(&remote, Network).contains("10.65.0.1/24"));
    assert!(matches!(
        step(&remote, Image).action,
        Action::Blocked { .. }
    ));
    facts.server = ServerState::Unreachable("connection refused".into());
    assert_eq!(ids(&plan(&facts, &options)), [Access]);
}

#[test]
fn without_btrfs_pool_uses_directories_with_a_warning() {
    let plan = plan_with(|local| local.btrfs = false);
    assert!(preview(&plan, Pool).contains(r#""driver":"dir""#));
    assert!(plan.warnings[0].contains("no btrfs"));
    assert!(!preview(&plan, Packages).contains("btrfs-progs"));
}

#[test]
fn pool_size_depends_on_free_space() {
    let size = |free| preview(&plan_with(|local| local.free_disk = free * GIB), Pool);
    assert!(size(10).contains(r#""size":"8GiB""#), "{}", size(10));
    assert!(size(4).contains(r#""size":"4GiB""#));
    assert!(size(3).contains("not possible"));
}

#[test]
fn configured_pool_and_bridge_keep_their_names() {
    let mut options = options();
    options.pool = Some("ssd".into());
    options.network = Some("br9".into());
    let named = plan(&answering(ready()), &options);
    assert_eq!(ids(&named), [Packages, Pool, Network]);
    assert!(preview(&named, Pool).contains(r#""name":"ssd""#));
    assert!(preview(&named, Network).contains(r#""name":"br9""#));
    let mut server = ready();
    server.clustered = true;
    let cluster = plan(&answering(server), &options);
    assert!(preview(&cluster, Pool).contains("--target"));
}

#[test]
fn bridge_name_in_use_is_skipped() {
    let plan = plan_with(|local| local.interfaces.push("incusbr0".into()));
    assert!(preview(&plan, Network).contains(r#""name":"incusbr1""#));
}
