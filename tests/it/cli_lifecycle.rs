//! Creates, checkpoints, forks, restores and destroys pixels on a real daemon.

use crate::support::env::TestEnv;
use crate::support::project::Project;
use crate::support::server::Server;
use crate::support::{lab, wait};

#[test]
#[ignore = "needs Incus"]
fn create_checkpoint_clone_restore_destroy() {
    lab::ready();
    let env = TestEnv::new("main");
    let (a, b) = (env.name("a"), env.name("b"));
    env.pixels(["create", &a]).ok();
    env.pixels(["exec", &a, "--", "sh", "-c", "exit 7"])
        .expect(7);
    env.pixels(["exec", &a, "--", "touch", "/root/kept"]).ok();
    env.checkpoint(&a, "ready");

    let from = format!("{a}:ready");
    env.pixels(["create", &b, "--from", &from]).ok();
    let host = env.pixels(["exec", &b, "--", "hostname"]).ok().stdout;
    assert_eq!(host, format!("px-{b}\n"));

    env.pixels(["exec", &a, "--", "rm", "/root/kept"]).ok();
    env.pixels(["checkpoint", "restore", &a, "ready"]).ok();
    env.pixels(["exec", &a, "--", "ls", "/root/kept"]).ok();

    for name in [&a, &b] {
        assert_eq!(env.listed(name)["status"], "RUNNING");
    }

    env.pixels(["destroy", &a, "--force"]).ok();
    env.pixels(["destroy", &a, "--force"])
        .expect(3)
        .reports(&format!("pixel {a:?} not found"));
}

/// Replaces ssh-keygen, which the image may not have. Writes the host name as
/// the key.
const KEYGEN: &str = "#!/bin/sh\n\
    file=/etc/ssh/ssh_host_ed25519_key\n\
    while [ $# -gt 0 ]; do [ \"$1\" = -f ] && file=$2; shift; done\n\
    echo \"new $(cat /proc/sys/kernel/hostname)\" >\"$file\"\n";
const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

/// Creates a file in a pixel.
#[track_caller]
fn plant(env: &TestEnv, name: &str, path: &str, mode: &str, content: &str) {
    let script = "mkdir -p \"${1%/*}\" && cat >\"$1\" && chmod \"$2\" \"$1\"";
    let args = ["exec", name, "--", "sh", "-c", script, "sh", path, mode];
    env.pixels_with(args, content.as_bytes()).ok();
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    machine: String,
    mac: String,
    key: String,
}

/// Reads a pixel's identity and checks its host name.
#[track_caller]
fn identity(env: &TestEnv, name: &str) -> Identity {
    let script = "cat /etc/machine-id /sys/class/net/eth0/address /etc/ssh/ssh_host_ed25519_key; \
                  hostname; cat /etc/hostname; grep ^127.0.1.1 /etc/hosts";
    let text = env.sh(name, script);
    let lines: Vec<&str> = text.lines().collect();
    let [machine, mac, key, host, file, hosts] = lines[..] else {
        panic!("{name}: {text}");
    };
    assert_eq!(machine.len(), 32, "{name}: {text}");
    let own = format!("px-{name}");
    assert_eq!((host, file), (&*own, &*own));
    let hosts: Vec<&str> = hosts.split_whitespace().collect();
    assert_eq!(hosts, ["127.0.1.1", &own]);
    Identity {
        machine: machine.into(),
        mac: mac.into(),
        key: key.into(),
    }
}

#[track_caller]
fn assert_all_differ(identities: &[Identity]) {
    for (at, one) in identities.iter().enumerate() {
        for other in &identities[..at] {
            assert_ne!(one.machine, other.machine);
            assert_ne!(one.mac, other.mac);
            assert_ne!(one.key, other.key);
        }
    }
}

/// Destroys pixels early, because all containers share kernel limits.
#[track_caller]
fn destroy(env: &TestEnv, names: impl IntoIterator<Item = String>) {
    let args = ["destroy", "--force"].map(str::to_owned);
    env.pixels(args.into_iter().chain(names)).ok();
}

#[test]
#[ignore = "needs Incus"]
fn clone_gets_new_identity() {
    lab::ready();
    let env = TestEnv::new("clone");
    let name = |short: &str| env.name(short);
    let a = name("a");
    env.pixels(["create", &a]).ok();
    plant(&env, &a, "/usr/bin/ssh-keygen", "755", KEYGEN);
    plant(&env, &a, KEY, "600", "old\n");
    plant(&env, &a, "/etc/ssh/ssh_host_dsa_key.pub", "644", "old\n");
    plant(&env, &a, "/root/kept", "644", "content\n");
    let source = identity(&env, &a);
    assert_eq!(source.key, "old");
    env.checkpoint(&a, "cp");

    let clone = |to: &str, from: &str| {
        env.pixels(["create", to, "--from", from]).ok();
        assert_eq!(env.sh(to, "cat /root/kept"), "content\n");
        let own = identity(&env, to);
        assert_eq!(own.key, format!("new px-{to}"));
        own
    };
    let b = clone(&name("b"), &a);
    let c = clone(&name("c"), &format!("px-{a}:cp"));
    env.pixels(["stop", "--force", &a]).ok();
    let d = clone(&name("d"), &a);
    assert_eq!(env.listed(&a)["status"], "STOPPED");
    let of_clone = clone(&name("e"), &name("b"));
    assert_all_differ(&[source.clone(), b.clone(), c, d, of_clone]);

    // A pixel keeps its identity after a restart and after a restore.
    env.pixels(["stop", "--force", &name("b")]).ok();
    env.pixels(["start", &name("b")]).ok();
    assert_eq!(identity(&env, &name("b")), b);
    env.pixels(["start", &a]).ok();
    assert_eq!(identity(&env, &a), source);
    env.pixels(["checkpoint", "restore", &a, "cp"]).ok();
    assert_eq!(identity(&env, &a), source);
}

#[test]
#[ignore = "needs Incus"]
fn clone_limits_override_source_limits() {
    lab::ready();
    let env = TestEnv::new("limits");
    let (a, b, c) = (env.name("a"), env.name("b"), env.name("c"));
    env.pixels(["create", &a, "--cpu", "2", "--memory", "1GiB"])
        .ok();
    env.pixels(["create", &b, "--from", &a, "--cpu", "1", "--memory", "512"])
        .ok();
    env.pixels(["create", &c, "--from", &b]).ok();
    for (name, cpu, mib) in [(&a, "2", 1024u64), (&b, "1", 512), (&c, "1", 512)] {
        let pixel = env.listed(name);
        assert_eq!(pixel["cpu"], cpu, "{name}");
        assert_eq!(pixel["memory"], (mib << 20).to_string(), "{name}");
        // Reads the limit that the kernel enforces, from cgroup v1 or v2.
        let limit = "cd /sys/fs/cgroup; \
            cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes";
        let inside = env.sh(name, limit);
        assert_eq!(inside.trim(), (mib << 20).to_string(), "{name}");
    }
}

#[test]
#[ignore = "needs Incus"]
fn fork_numbers_clones_and_deletes_temporary_checkpoint() {
    lab::ready();
    let env = TestEnv::new("fork");
    let a = env.create("a");
    plant(&env, &a, "/root/kept", "644", "content\n");
    env.checkpoint(&a, "cp");
    env.pixels(["create", &format!("{a}-2"), "--from", &a]).ok();

    // Forks a live pixel when one of the numbers is in use.
    let outcome = env.pixels(["fork", &a, "-n", "3", "--json"]).ok();
    let mut names: Vec<String> = outcome
        .stdout
        .lines()
        .map(|line| {
            let document: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(document["from"], a);
            document["name"].as_str().unwrap().to_owned()
        })
        .collect();
    names.sort();
    assert_eq!(names, [1, 3, 4].map(|number| format!("{a}-{number}")));
    // Forks a checkpoint with another prefix; stdout lists one name per line.
    let prefix = env.name("p");
    let origin = format!("{a}:cp");
    let outcome = env
        .pixels(["fork", &origin, "-n", "2", "--prefix", &prefix])
        .ok();
    let mut more: Vec<String> = outcome.stdout.lines().map(str::to_owned).collect();
    more.sort();
    assert_eq!(more, [1, 2].map(|number| format!("{prefix}-{number}")));
    assert_eq!(outcome.stderr, "");
    for name in names.iter().chain(&more) {
        assert_eq!(env.sh(name, "cat /root/kept"), "content\n");
    }
    destroy(&env, names.into_iter().chain(more));

    // Concurrent forks of one pixel use different numbers.
    let both: Vec<_> = (0..2)
        .map(|_| env.spawn(["fork", &a, "-n", "2", "--prefix", &env.name("both")]))
        .collect();
    let mut given = std::collections::BTreeSet::new();
    for child in both {
        let output = child.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        let text = String::from_utf8(output.stdout).unwrap();
        given.extend(text.lines().map(str::to_owned));
    }
    assert_eq!(given.len(), 4, "{given:?}");
    destroy(&env, given);

    // A failed fork leaves no clone.
    let before = env.remaining().len();
    env.pixels(["fork", &format!("{a}:none"), "-n", "3"])
        .expect(3);
    assert_eq!(env.remaining().len(), before);
    let snapshots = Server::shared().get(&format!("/1.0/instances/px-{a}/snapshots"));
    let kept = format!("/1.0/instances/px-{a}/snapshots/cp");
    assert_eq!(snapshots, serde_json::json!([kept]));
}

#[test]
#[ignore = "needs Incus"]
fn checkpoint_create_list_restore_delete() {
    lab::ready();
    let env = TestEnv::new("cp");
    let a = env.create("a");
    let labels = || -> Vec<String> {
        let all = env.pixels(["checkpoint", "list", &a, "--json"]).ok().json();
        let all = all.as_array().unwrap();
        all.iter()
            .map(|one| one["label"].as_str().unwrap().to_owned())
            .collect()
    };
    let none = env.pixels(["checkpoint", "list", &a]).ok();
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("No checkpoints"), "{}", none.stderr);

    env.sh(&a, "echo 1 >/root/state");
    env.checkpoint(&a, "z.first");
    env.sh(&a, "echo 2 >/root/state");
    env.pixels(["cp", "create", &format!("px-{a}"), "--label", "a_second"])
        .ok();
    let named = env.pixels(["checkpoint", "create", &a, "--json"]).ok();
    let third = named.json()["label"].as_str().unwrap().to_owned();
    assert!(third.starts_with("px-20"), "{third}");
    assert_eq!(labels(), ["z.first", "a_second", &third]);
    env.pixels(["checkpoint", "create", &a, "--label", "z.first"])
        .expect(4)
        .reports("\"z.first\"");
    env.pixels(["cp", "rm", &a, &third]).ok();
    env.pixels(["checkpoint", "delete", &a, &third]).expect(3);
    assert_eq!(labels(), ["z.first", "a_second"]);

    // A restored running pixel runs again, without later changes.
    env.sh(&a, "echo 3 >/root/state; touch /root/later");
    env.pixels(["checkpoint", "restore", &a, "z.first"]).ok();
    assert_eq!(env.sh(&a, "cat /root/state; ls /root"), "1\nstate\n");
    // A later checkpoint is kept and can be restored.
    env.pixels(["stop", "--force", &a]).ok();
    env.pixels(["checkpoint", "restore", &a, "a_second"]).ok();
    assert_eq!(env.listed(&a)["status"], "STOPPED");
    // A checkpoint of a stopped pixel does not start the pixel.
    env.checkpoint(&a, "stopped");
    assert_eq!(env.listed(&a)["status"], "STOPPED");
    env.pixels(["start", &a]).ok();
    assert_eq!(env.sh(&a, "cat /root/state"), "2\n");
    assert_eq!(labels(), ["z.first", "a_second", "stopped"]);
}

#[test]
#[ignore = "needs Incus"]
fn lifecycle_commands_are_idempotent_and_accept_px_prefix() {
    lab::ready();
    let env = TestEnv::new("names");
    let (a, b, c) = (env.name("a"), env.name("b"), env.name("c"));
    let px = |name: &str| format!("px-{name}");
    let made = env.pixels(["create", &px(&c)]).ok();
    assert!(made.stdout.contains(&format!("Created px-{c} in ")));
    env.pixels(["create", &a, "--from", &px(&c)]).ok();
    env.pixels(["create", &px(&b), "--from", &a]).ok();
    for name in [&c, &px(&c)] {
        env.pixels(["create", name]).expect(4);
    }
    for name in [&a, &px(&a)] {
        env.pixels(["start", name]).ok();
    }
    assert_eq!(env.listed(&a)["status"], "RUNNING");
    env.pixels(["exec", &px(&a), "--", "true"]).ok();
    for name in [&a, &px(&a)] {
        env.pixels(["stop", "--force", name]).ok();
    }
    // Stops without `--force`.
    env.pixels(["stop", &b]).ok();
    env.pixels(["stop", &b]).ok();
    assert_eq!(env.listed(&b)["status"], "STOPPED");
    let started = env.pixels(["start", &px(&a)]).ok();
    assert!(started.stdout.contains("IP:"), "{}", started.stdout);
    assert_eq!(env.remaining(), [&*a, &*b, &*c]);
    let table = env.pixels(["ls"]).ok().stdout;
    let at = |name: &str| table.find(&format!("\n{name} ")).unwrap();
    assert!(at(&a) < at(&b) && at(&b) < at(&c), "{table}");

    // A missing pixel does not prevent `destroy` from destroying the others.
    let missing = env.name("missing");
    let gone = env
        .pixels(["destroy", "-f", &a, &missing, &px(&b)])
        .expect(3);
    assert!(gone.stdout.contains(&format!("Destroyed {a}\n")));
    assert!(gone.stdout.contains(&format!("Destroyed {b}\n")));
    assert!(gone.stderr.contains(&missing), "{}", gone.stderr);
    assert_eq!(env.remaining(), [&*c]);
    // A pixel named twice is destroyed once without an error.
    env.pixels(["destroy", "-f", &c, &px(&c)]).ok();
    assert_eq!(env.remaining(), [""; 0]);
}

#[test]
#[ignore = "needs Incus"]
fn pixels_are_unprivileged_and_exec_refuses_privileged_instances() {
    lab::ready();
    let env = TestEnv::new("hard");
    let (a, b, p) = (env.name("a"), env.name("b"), env.name("p"));
    let server = Server::shared();
    env.pixels(["create", &a]).ok();
    // A clone is hardened even if the source was reconfigured.
    let path = format!("/1.0/instances/px-{a}");
    let open = serde_json::json!({"config": {"security.guestapi": "true"}});
    server.done("PATCH", &path, &open);
    env.pixels(["create", &b, "--from", &a]).ok();
    let open = serde_json::json!({"config": {"security.guestapi": "false"}});
    server.done("PATCH", &path, &open);
    for name in [&a, &b] {
        let instance = server.get(&format!("/1.0/instances/px-{name}"));
        let config = &instance["config"];
        for (key, value) in [
            ("security.privileged", "false"),
            ("security.guestapi", "false"),
            ("security.nesting", "false"),
        ] {
            assert_eq!(config[key], value, "{name}: {key}");
        }
        assert!(config["limits.processes"].is_string());
        // The clone has no profiles, so no profile can add a device.
        assert_eq!(instance["profiles"], serde_json::json!([]));
        let devices = instance["devices"].as_object().unwrap();
        assert_eq!(devices.keys().collect::<Vec<_>>(), ["eth0", "root"]);
    }
    for name in [&a, &b] {
        let inside = env.sh(
            name,
            "ls -d /dev/incus /dev/lxd 2>/dev/null; cat /proc/self/uid_map",
        );
        let map: Vec<&str> = inside.split_whitespace().collect();
        assert_eq!((map[0], map.len()), ("0", 3), "{inside}");
        assert_ne!(map[1], "0", "root in the container is root on the host");
    }

    let body = serde_json::json!({
        "name": format!("px-{p}"),
        "config": {"security.privileged": "true"},
        "source": {"type": "copy", "source": format!("px-{a}"), "instance_only": true},
    });
    server.done("POST", "/1.0/instances", &body);
    for state in ["stopped", "running"] {
        let refused = env
            .pixels(["exec", &p, "--", "touch", "/begun"])
            .expect(125);
        assert!(
            refused.stderr.contains("privileged"),
            "{state}: {}",
            refused.stderr
        );
        if state == "stopped" {
            let body = serde_json::json!({"action": "start"});
            let path = format!("/1.0/instances/px-{p}/state");
            server.done("PUT", &path, &body);
        }
    }
    // The exec prepared during the check was canceled and never ran.
    server.settle(&p);
    let instance = format!("px-{p}");
    let script = "ls /begun 2>/dev/null || echo never";
    assert_eq!(server.run(&instance, &["sh", "-c", script]).trim(), "never");
    // A privileged container can still be destroyed.
    env.pixels(["destroy", "-f", &p]).ok();
}

#[test]
#[ignore = "needs Incus"]
fn restricted_project_supports_lifecycle() {
    lab::ready();
    // The project forbids `raw.lxc`, which sets a container's first process.
    let config = serde_json::json!({
        "features.images": "false",
        "features.profiles": "true",
        "features.networks": "false",
        "features.storage.volumes": "true",
        "restricted": "true",
        "restricted.containers.lowlevel": "block",
        "restricted.devices.nic": "managed",
        "restricted.devices.disk": "managed",
        "restricted.snapshots": "allow",
    });
    let project = Project::new("limits", &config);
    let get = |path: &str| Server::shared().get(&format!("{path}?project={}", project.name));
    let mut env = TestEnv::new("project");
    // Without `raw.lxc`, a gateway cannot separate pixels.
    let refused = project.env.pixels(["create", "behind"]).expect(1);
    assert!(
        refused.stderr.contains("does not allow raw.lxc"),
        "{refused:?}"
    );
    assert_eq!(get("/1.0/instances").as_array().unwrap().len(), 0);
    env.set("PIXELS_NETWORK_PLACEMENT", "pixel");
    let (a, outside) = (env.name("a"), env.name("outside"));
    // Pixels of other projects are not listed, but their names are in use on
    // the shared network.
    env.pixels(["create", &outside]).ok();
    env.set("PIXELS_INCUS_PROJECT", &project.name);
    assert_eq!(env.remaining(), [""; 0]);
    env.pixels(["create", &outside])
        .expect(4)
        .reports("another project");
    assert_eq!(env.remaining(), [""; 0]);
    env.pixels(["create", &a]).ok();
    let instance = get(&format!("/1.0/instances/px-{a}"));
    let low_level = &instance["config"]["raw.lxc"];
    assert!(low_level.as_str().unwrap_or_default().is_empty());

    plant(&env, &a, "/usr/bin/ssh-keygen", "755", KEYGEN);
    plant(&env, &a, KEY, "600", "old\n");
    // In this image, init creates the machine ID and a unit creates the keys.
    let settled = |name: &str| {
        let complete =
            format!("ls -l /etc/machine-id {KEY} >&2; test -s /etc/machine-id && test -s {KEY}");
        let last = std::cell::RefCell::new(String::new());
        wait::until_or(
            || {
                let asked = env.pixels(["exec", name, "--", "sh", "-c", &complete]);
                last.replace(asked.stderr);
                (asked.code == 0).then_some(())
            },
            || format!("{name} got no identity: {}", last.borrow()),
        );
        identity(&env, name)
    };
    let source = settled(&a);
    env.checkpoint(&a, "cp");
    let (b, c) = (env.name("b"), env.name("c"));
    env.pixels(["create", &b, "--from", &format!("{a}:cp")])
        .ok();
    env.pixels(["stop", "--force", &a]).ok();
    env.pixels(["create", &c, "--from", &a]).ok();
    let mut all = Vec::new();
    let mut own = |name: &str| {
        let own = settled(name);
        assert_eq!(own.key, format!("new px-{name}"));
        all.push(own);
    };
    own(&b);
    own(&c);
    env.pixels(["stop", "--force", &b]).ok();
    env.pixels(["start", &b]).ok();
    own(&b);
    destroy(&env, [b, c]);
    env.pixels(["start", &a]).ok();
    env.pixels(["fork", &a, "-n", "2"]).ok();
    own(&format!("{a}-1"));
    own(&format!("{a}-2"));
    let after_restart = all.remove(2);
    assert_eq!(all[0], after_restart);
    all.push(settled(&a));
    assert_eq!(all.last(), Some(&source));
    assert_all_differ(&all);
    let snapshots = get(&format!("/1.0/instances/px-{a}/snapshots"));
    assert_eq!(snapshots.as_array().unwrap().len(), 1, "{snapshots}");

    destroy(&env, env.remaining());
    env.set("PIXELS_INCUS_PROJECT", "");
    env.pixels(["exec", &outside, "--", "true"]).ok();
    env.set("PIXELS_INCUS_PROJECT", "px-t-no-such-project");
    env.pixels(["create", &env.name("x")])
        .expect(3)
        .reports("project");
    env.set("PIXELS_INCUS_PROJECT", "");
}

#[test]
#[ignore = "needs Incus"]
fn first_exec_in_clone_sees_new_identity() {
    lab::ready();
    let env = TestEnv::new("first");
    let a = env.create("a");
    // The first boot is slow.
    let slow = "#!/bin/sh\nsleep 1; echo \"${0##*/}\" >/etc/ssh/ssh_host_ed25519_key\n";
    plant(&env, &a, "/usr/bin/ssh-keygen", "755", slow);
    plant(&env, &a, KEY, "600", "old\n");
    let b = env.name("b");
    env.pixels(["create", &b, "--from", &a]).ok();
    assert_eq!(env.sh(&b, &format!("cat {KEY}")), "ssh-keygen\n");
    let other = env.name("c");
    env.pixels(["create", &other, "--from", &a]).ok();
    let as_user = ["exec", "-u", "ubuntu", &other, "--", "ls", KEY];
    env.pixels(as_user).ok();
}
