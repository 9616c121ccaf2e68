//! A daemon that stops, hangs, denies access or has a full pool, before and
//! during a command.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::env::{BINARY, Outcome, finished, spawn};
use crate::support::lab;
use crate::support::private_daemon::PrivateDaemon;
use crate::support::programs;
use crate::support::wait::eventually;

/// Time limit of a command, to detect a hang.
const LIMIT: Duration = Duration::from_secs(120);
/// The limit for an error about an unreachable daemon. The error takes
/// milliseconds; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs Incus"]
fn killed_daemon_fails_commands_and_prune_deletes_leftovers() {
    lab::ready();
    let mut daemon = PrivateDaemon::start();
    let env = daemon.env("dead");
    let (made, other) = (env.name("made"), env.name("other"));
    env.pixels(["create", &other]).ok();
    env.pixels(["stop", "--force", &other]).ok();

    // Kills the daemon during an exec that prints.
    env.pixels(["start", &other]).ok();
    let talk = "echo begun; while :; do sleep 0.01; echo more; done";
    let mut child = env.spawn(["exec", &other, "--", "sh", "-c", talk]);
    let mut begun = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut begun).unwrap();
    assert_eq!(&begun, b"begun\n");
    daemon.kill();
    let outcome = finished(child, SOON).expect(125);
    outcome.reports("cannot reach");
    daemon.resume();

    // Kills the daemon during an exec without output.
    let child = env.spawn(["exec", &other, "--", "sleep", "3000"]);
    eventually("the command runs", || {
        let all = daemon.server.get("/1.0/operations?recursion=1").to_string();
        all.contains("Executing command") && all.contains("Running")
    });
    daemon.kill();
    finished(child, SOON).expect(125);
    daemon.resume();

    // Kills the daemon during a create, as soon as the instance exists.
    let child = env.spawn(["create", &made]);
    eventually("instance exists", || daemon.server.status(&made).is_some());
    daemon.kill();
    let outcome = finished(child, SOON);
    // The create may have finished before the kill.
    assert!(matches!(outcome.code, 0 | 5), "{outcome:?}");
    if outcome.code == 5 {
        outcome.reports(&made).reports("hint:");
    }

    // Without a daemon, every command reports the unreachable server.
    for args in [
        &["list"][..],
        &["create", "t-x"],
        &["create", "t-x", "--image", "any"],
        &["create", "t-x", "--from", &other],
        &["fork", &other, "-n", "2"],
        &["checkpoint", "restore", &other, "x"],
        &["start", &other],
        &["destroy", "--force", &other],
        &["prune"],
    ] {
        let outcome = env.pixels_within(args, SOON).expect(5);
        let outcome = outcome
            .reports("cannot reach Incus")
            .reports("pixels doctor");
        // No request was sent, so no leftover is reported.
        assert!(!outcome.stderr.contains("left behind"), "{outcome:?}");
    }
    let exec = ["exec", &other, "--", "true"];
    env.pixels_within(exec, SOON).expect(125);
    let outcome = env.pixels_within(["doctor", "--json"], SOON).expect(2);
    assert!(outcome.stdout.contains("access"), "{outcome:?}");

    // Later, `prune` finds and deletes only the leftover.
    daemon.resume();
    let half_made = daemon
        .server
        .status(&made)
        .is_some_and(|status| status != "Running");
    let expected = half_made.then(|| format!("pixel {made}"));
    assert_eq!(env.prune(&["--dry-run"]), Vec::from_iter(expected));
    let doctor = env.pixels(["doctor"]);
    assert_eq!(doctor.stdout.contains(&made), half_made, "{doctor:?}");
    env.pixels(["prune"]).ok();
    assert_eq!(env.prune(&["--dry-run"]), [""; 0]);
    env.pixels(["exec", &other, "--", "true"]).ok();
    if half_made {
        assert_eq!(daemon.server.status(&made), None);
    }
    // The name is free, or the pixel works.
    let again = env.pixels(["create", &made]);
    assert!(matches!(again.code, 0 | 4), "{again:?}");
    env.pixels(["exec", &made, "--", "true"]).ok();
}

#[test]
#[ignore = "needs Incus"]
fn daemon_killed_before_start_leaves_prunable_pixel() {
    lab::ready();
    let mut daemon = PrivateDaemon::start();
    let env = daemon.env("betw");
    let (made, user) = (env.name("made"), env.name("user"));
    // A pixel that the user never started is not an orphan.
    let own = json!({
        "name": format!("px-{user}"),
        "source": {"type": "image", "alias": daemon.image},
        "profiles": [],
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
    });
    daemon.server.done("POST", "/1.0/instances", &own);
    // The creating process is dead and never started the instance.
    let child = env.spawn(["create", &made]);
    eventually("instance exists", || daemon.server.status(&made).is_some());
    daemon.kill();
    let _ = finished(child, SOON);
    daemon.resume();
    match daemon.server.status(&made).as_deref() {
        Some("Running") | None => assert_eq!(env.prune(&["--dry-run"]), [""; 0]),
        Some(_) => {
            assert_eq!(env.prune(&["--dry-run"]), [format!("pixel {made}")]);
            let reported = env.pixels(["doctor"]).stdout;
            assert!(
                reported.contains(&made) && !reported.contains(&user),
                "{reported}"
            );
            env.pixels(["prune"]).ok();
            assert_eq!(daemon.server.status(&made), None);
        }
    }
    assert_eq!(daemon.server.status(&user).as_deref(), Some("Stopped"));
}

#[test]
#[ignore = "needs Incus"]
fn hanging_daemon_times_out_commands() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    let env = daemon.env("hang");
    let name = env.create("a");
    let timed = ["exec", "--timeout", "1s", &name, "--"];
    let mut child = env.spawn(timed.into_iter().chain(["sh", "-c", "echo up; sleep 3000"]));
    let mut up = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
    let frozen = daemon.freeze();
    let listing = env.spawn(["list"]);
    let making = env.spawn(["create", &env.name("b")]);
    finished(child, LIMIT).expect(124);
    for stuck in [listing, making] {
        let outcome = finished(stuck, LIMIT).expect(5);
        outcome.reports("no answer within");
    }
    drop(frozen);
    // The daemon was slow and still works.
    env.pixels(["exec", &name, "--", "true"]).ok();
    assert_eq!(daemon.server.pixels(&env.name("b")), [""; 0]);
}

/// Runs the binary as an unprivileged user.
fn as_unprivileged(socket: &Path, args: &[&str]) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("pixels");
    fs::copy(BINARY, &binary).unwrap();
    for path in [dir.path(), &binary] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&binary)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", dir.path())
        .env("PIXELS_INCUS_SOCKET", socket)
        .stdin(Stdio::null());
    finished(spawn(&mut command), LIMIT)
}

#[test]
#[ignore = "needs Incus"]
fn socket_without_permission_names_group() {
    lab::ready();
    let socket = Path::new(crate::support::server::SHARED);
    for args in [&["list"][..], &["create", "t-unreachable"], &["prune"]] {
        let outcome = as_unprivileged(socket, args).expect(5);
        let outcome = outcome.reports("permission denied").reports("incus-admin");
        assert!(!outcome.stderr.contains("left behind"), "{outcome:?}");
    }
    let outcome = as_unprivileged(socket, &["list", "--json"]).expect(5);
    assert_eq!(outcome.error()["kind"], "denied", "{outcome:?}");
    as_unprivileged(socket, &["exec", "t-unreachable", "--", "true"]).expect(125);
    let outcome = as_unprivileged(socket, &["doctor"]).expect(2);
    assert!(outcome.stdout.contains("incus-admin"), "{outcome:?}");
}

/// Simulates the directory left by a failed restore, which Incus cannot delete.
#[test]
#[ignore = "needs Incus"]
fn destroy_with_lost_disk_names_directory() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    let env = daemon.env("lost");
    let name = env.create("a");
    env.pixels(["stop", "--force", &name]).ok();
    let disk = daemon.disk(&name);
    let mut delete = Command::new("btrfs");
    programs::output_of(delete.args(["subvolume", "delete"]).arg(&disk));
    fs::create_dir(&disk).unwrap();
    let reported = env.pixels(["destroy", "--force", &name]).expect(1);
    let way_out = format!("rm -r {}", disk.display());
    reported.reports("is lost").reports(&way_out);
    fs::remove_dir_all(&disk).unwrap();
    env.pixels(["destroy", "--force", &name]).ok();
}

#[test]
#[ignore = "needs Incus"]
fn full_pool_fails_create_and_leaves_nothing() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    let mut env = daemon.env("full");
    // The pool is too small for the image.
    let body = json!({"name": "tiny", "driver": "btrfs", "config": {"size": "128MiB"}});
    daemon.server.done("POST", "/1.0/storage-pools", &body);
    env.set("PIXELS_DEFAULT_POOL", "tiny");
    let name = env.name("a");
    let outcome = env.pixels_within(["create", &name], LIMIT).expect(1);
    assert!(no_room(&outcome), "{outcome:?}");
    assert_eq!(daemon.server.pixels(&name), [""; 0]);

    // In a full pool, existing pixels work and a failed create leaves nothing.
    let body = json!({"name": "small", "driver": "btrfs", "config": {"size": "512MiB"}});
    daemon.server.done("POST", "/1.0/storage-pools", &body);
    env.set("PIXELS_DEFAULT_POOL", "small");
    env.pixels_within(["create", &name], LIMIT).ok();
    let fill = "head -c 1G /dev/zero >/root/full; sync; rm -f /root/gone; true";
    let _ = env.pixels_within(["exec", &name, "--", "sh", "-c", fill], LIMIT);
    let more = env.name("b");
    let write = "head -c 64M /dev/urandom >/root/x && sync";
    let outcome = env.pixels_within(["exec", &name, "--", "sh", "-c", write], LIMIT);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(no_room(&outcome), "{outcome:?}");
    for args in [
        &["create", &more][..],
        &["create", &more, "--from", &name],
        &["fork", &name, "-n", "2", "--prefix", &more],
    ] {
        let outcome = env.pixels_within(args, LIMIT);
        let made = daemon.server.pixels(&more);
        if outcome.code == 0 {
            // A clone shares blocks with its source and may still fit.
            for one in &made {
                env.pixels(["exec", one, "--", "true"]).ok();
            }
        } else {
            assert_eq!(outcome.code, 1, "{outcome:?}");
            assert!(no_room(&outcome), "{args:?}: {outcome:?}");
            assert_eq!(made, [""; 0], "{outcome:?}");
        }
        assert_eq!(daemon.server.checkpoints(&name), [""; 0], "{outcome:?}");
        env.destroy(made).ok();
    }
    env.pixels_within(["destroy", "--force", &name], LIMIT).ok();
}

fn no_room(outcome: &Outcome) -> bool {
    let text = outcome.stderr.to_lowercase();
    text.contains("no space left") || text.contains("write error")
}
