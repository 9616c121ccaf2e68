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

fn limit<'a>(local: &'a mut LocalFacts, key: &str) -> &'a mut KernelLimit {
    let mut limits = local.kernel_limits.iter_mut();
    limits.find(|limit| limit.key == key).unwrap()
}

#[test]
fn low_kernel_limits_are_raised_and_high_limits_are_kept() {
    let plan = plan_with(|local| {
        limit(local, "fs.aio-max-nr").value = Some(65_536);
        limit(local, "net.ipv4.neigh.default.gc_thresh3").value = Some(1 << 40);
        limit(local, "fs.file-max").value = Some(1 << 40);
    });
    let raised = step(&plan, Limits);
    assert!(raised.action.needs_root());
    let preview = preview(&plan, Limits);
    assert!(preview.starts_with("write /etc/sysctl.d/60-pixels.conf:\n  # Written by "));
    let values: Vec<&str> = preview.lines().filter(|it| it.contains(" = ")).collect();
    assert_eq!(
        values,
        [
            "  fs.inotify.max_user_instances = 2147483647",
            "  fs.inotify.max_user_watches = 2147483647",
            "  fs.fanotify.max_user_groups = 2147483647",
            "  fs.fanotify.max_user_marks = 2147483647",
            "  fs.aio-max-nr = 2147483647",
            "  net.ipv4.neigh.default.gc_thresh1 = 8192",
            "  net.ipv4.neigh.default.gc_thresh2 = 32768",
            "  net.ipv6.neigh.default.gc_thresh1 = 8192",
            "  net.ipv6.neigh.default.gc_thresh2 = 32768",
            "  net.ipv6.neigh.default.gc_thresh3 = 2147483647",
        ]
    );
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn kernel_limits_that_cannot_be_raised_are_a_warning() {
    let plan = |root: bool| {
        plan_with(|local| {
            local.root = root;
            let watches = limit(local, "fs.inotify.max_user_watches");
            (watches.value, watches.writable) = (Some(8192), false);
            limit(local, "net.ipv4.neigh.default.gc_thresh3").value = None;
            // High enough, so not in the warning.
            limit(local, "fs.aio-max-nr").writable = false;
        })
    };
    let as_root = plan(true);
    assert!(!ids(&as_root).contains(&Limits));
    let [warning] = &as_root.warnings[..] else {
        panic!("{:?}", as_root.warnings);
    };
    assert!(
        warning.starts_with(
            "cannot raise kernel limits: fs.inotify.max_user_watches (8192, not writable), \
             net.ipv4.neigh.default.gc_thresh3 (not found); "
        ),
        "{warning}"
    );
    assert!(plan(false).warnings[0].ends_with("run: sudo pixels setup"));
}
