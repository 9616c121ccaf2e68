//! Tests of the plan's steps on this machine.

use super::*;

#[test]
fn bare_debian_12_without_systemd_gets_all_steps_in_order() {
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
fn daemon_is_started_by_systemd_if_it_runs() {
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
        "a non-default directory has no systemd unit: {elsewhere}"
    );
}

#[test]
fn missing_root_blocks_before_the_first_step_that_needs_root() {
    let mut facts = bare();
    facts.local.as_mut().unwrap().root = false;
    let bare = plan(&facts, &options());
    assert_eq!(ids(&bare)[..2], [Privilege, Backports]);
    assert!(preview(&bare, Privilege).contains("sudo pixels setup"));

    let mut server = ready();
    server.pools.clear();
    server.aliases.clear();
    facts.server = ServerState::Ready(Box::new(server));
    prepare_machine(&mut facts);
    let local = facts.local.as_mut().unwrap();
    local.packages = packages::present(|_| Some(PathBuf::new()));
    let member = plan(&facts, &options());
    assert_eq!(
        ids(&member),
        [Pool, Privilege, Image],
        "a member of incus-admin can create a pool, but not build an image"
    );
}

#[test]
fn starting_daemon_is_awaited() {
    let plan = plan_with(|local| local.daemon_pid = Some(42));
    assert_eq!(preview(&plan, Daemon), "wait until process 42 is ready");
    assert!(!ids(&plan).contains(&Backports), "{:?}", ids(&plan));
}

#[test]
fn unsupported_systems_are_blocked_with_a_fix() {
    let on = |id: &str, version: &str, change: &dyn Fn(&mut LocalFacts)| {
        plan_with(|local| {
            local.os.id = id.into();
            local.os.version_id = version.into();
            local.os.codename = "other".into();
            change(local);
        })
    };
    let fedora = on("fedora", "42", &|local| local.apt = false);
    assert!(preview(&fedora, Packages).contains("package manager"));
    let old = on("ubuntu", "22.04", &|_| {});
    assert!(preview(&old, Packages).contains("have no Incus"));
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
fn interrupted_installation_is_finished_first() {
    let plan = plan_with(|local| local.unfinished = vec!["lxcfs".into()]);
    assert_eq!(ids(&plan)[..3], [Backports, Repair, Packages]);
    assert!(preview(&plan, Repair).contains("dpkg --configure -a"));
}

#[test]
fn configured_backports_are_not_added_again() {
    let plan = plan_with(|local| {
        let mut own = local.sources[0].clone();
        own.suites = vec!["bookworm-backports".into()];
        local.sources.push(own);
    });
    assert_eq!(ids(&plan)[0], Packages);
    assert!(preview(&plan, Packages).contains("-t bookworm-backports"));
}
