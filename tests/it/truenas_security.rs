//! Security on TrueNAS: no writes outside the pixel, no secrets that others can
//! read, no leftovers, and errors for unsupported features.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::env::{TestEnv, finished};
use crate::support::pty::Pty;
use crate::support::truenas::{API_KEY, Fault, Nas, ssh_keygen};
use crate::support::wait;

const LIMIT: Duration = Duration::from_secs(100);

fn link(root: &Path, from: &str, to: &Path) {
    let from = root.join(from);
    let _ = std::fs::remove_dir_all(&from);
    let _ = std::fs::remove_file(&from);
    std::fs::create_dir_all(from.parent().unwrap()).unwrap();
    symlink(to, from).unwrap();
}

#[test]
#[ignore = "needs Incus"]
fn truenas_symlinks_in_pixel_are_not_followed() {
    let (nas, env) = Nas::lab("25.10.1", "links");
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_owned();
    let file = target.join("file");
    let a = env.name("a");
    let deep = Path::new("../../../../../../../..").join(target.strip_prefix("/").unwrap());
    for (from, to) in [
        ("root/.ssh", target.clone()),
        ("root/.ssh/authorized_keys", file.clone()),
        ("root", target.clone()),
        // The link's target does not exist.
        ("root/.ssh", target.join("new")),
        (
            "etc/systemd/system/pixels-contact.service",
            target.join("new"),
        ),
        ("usr/local/lib/pixels", deep),
        ("etc/ssh/sshd_config.d/pixels.conf", file.clone()),
        // The link's target is inside the pixel, but at another path.
        (
            "etc/systemd/system/multi-user.target.d",
            "/etc/systemd/system/x".into(),
        ),
    ] {
        std::fs::write(&file, "untouched").unwrap();
        let what = format!("{from} -> {}", to.display());
        nas.plant(move |root| link(root, from, &to));
        let refused = env.pixels_within(["create", &a], LIMIT).expect(2);
        assert!(
            refused.stderr.contains("link"),
            "{what}: {}",
            refused.stderr
        );
        assert_eq!(env.remaining(), [""; 0], "{what}");
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "untouched",
            "{what}"
        );
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1, "{what}");
    }
    // TrueNAS cannot run a gateway.
    let args = ["create", &a, "--egress", "agent", "--json"];
    let mut command = env.command(args);
    let output = command.env("PIXELS_NETWORK_PLACEMENT", "gateway").output();
    let printed = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(printed.contains("unsupported"), "{printed}");
    assert_eq!(env.remaining(), [""; 0]);
    // No files are written without a mounted disk.
    nas.plant(|_| {});
    nas.hide_disks(true);
    let refused = env.pixels_within(["create", &a], LIMIT).expect(1);
    assert!(refused.stderr.contains("mounted"), "{}", refused.stderr);
    assert_eq!(env.remaining(), [""; 0]);
}

#[test]
#[ignore = "needs Incus"]
fn truenas_secrets_are_not_printed() {
    let (nas, mut env) = Nas::lab("25.10.1", "secret");
    env.set("PIXELS_LOG", "trace")
        .set("TOKEN", "t0ken-in-our-environment");
    let (a, b) = (env.name("a"), env.name("b"));
    let mut printed = Vec::new();
    let made = env.pixels(["-vv", "create", &a, "--json"]).ok();
    let script = "printf %s \"$TOKEN\" >/tmp/t; grep -alFf /tmp/t /proc/[0-9]*/cmdline; \
                  wc -c </tmp/t; rm /tmp/t";
    let argv = ["-vv", "exec", "-e", "TOKEN", &a, "--", "sh", "-c", script];
    let inside = env.pixels(argv).ok();
    assert_eq!(inside.stdout, "24\n");
    nas.on("virt.instance.create", 0, Fault::FailJob);
    let failed = env.pixels(["-vv", "create", &b, "--from", &a]).expect(1);
    let shown = env.pixels(["config", "show", "--origin"]).ok();
    nas.on("virt.instance.query", 0, Fault::CutAfter);
    let cut = env.pixels(["-vv", "list"]);
    env.set("PIXELS_TRUENAS_API_KEY", &format!("{API_KEY}x"));
    let wrong = env.pixels(["-vv", "list"]).expect(5);
    env.set("PIXELS_TRUENAS_API_KEY", API_KEY);
    for outcome in [made, inside, failed, shown, cut, wrong] {
        printed.push(outcome.stdout);
        printed.push(outcome.stderr);
    }
    let printed = printed.join("\n");
    assert!(
        printed.contains("virt.instance.create"),
        "nothing was logged"
    );
    assert!(!printed.contains(API_KEY), "the API key");
    assert!(!printed.contains("t0ken"), "the token");
    let noted = nas.noted(&a);
    assert!(
        !noted.contains("t0ken") && !noted.contains(API_KEY),
        "{noted}"
    );
}

/// Interrupts a command as soon as the server receives a call of this method.
fn interrupted(nas: &Nas, env: &TestEnv, args: &[&str], method: &str) {
    nas.forget();
    let mut child = env.spawn(args);
    wait::eventually("the server receives the call", || {
        nas.seen().iter().any(|one| one == method)
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    drop(child.stdin.take());
    let outcome = finished(child, LIMIT);
    assert_eq!(outcome.code, 130, "{method}: {outcome:?}");
}

#[test]
#[ignore = "needs Incus"]
fn truenas_interrupted_commands_leave_nothing() {
    let (nas, env) = Nas::lab("25.10.1", "int");
    let (a, b) = (env.name("a"), env.name("b"));
    for method in [
        "virt.instance.create",
        "virt.instance.start",
        "filesystem.file_receive",
    ] {
        interrupted(&nas, &env, &["create", &a], method);
        assert_eq!(env.remaining(), [""; 0], "{method}");
    }
    env.pixels(["create", &a]).ok();
    for method in ["pool.snapshot.create", "cronjob.create", "cronjob.run"] {
        interrupted(&nas, &env, &["create", &b, "--from", &a], method);
        assert_eq!(env.remaining(), [&*a], "{method}");
        assert_eq!(nas.cron(), 0, "{method}");
    }
    // Concurrent clones respect the server's limit of calls.
    env.pixels(["fork", &a, "-n", "3"]).ok();
    assert_eq!(env.remaining().len(), 4);
}

struct Agent(Child);

impl Agent {
    /// Starts an agent for this environment with one key.
    fn with(env: &mut TestEnv, key: &Path) -> Self {
        let socket = env.home().join("agent");
        let agent = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn();
        let agent = Self(agent.unwrap());
        wait::eventually("the agent listens", || UnixStream::connect(&socket).is_ok());
        let added = Command::new("ssh-add")
            .arg("-q")
            .arg(key)
            .env("SSH_AUTH_SOCK", &socket)
            .status();
        assert!(added.unwrap().success());
        env.set("SSH_AUTH_SOCK", socket.to_str().unwrap());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs Incus"]
fn truenas_encrypted_key_asks_for_passphrase() {
    let (_nas, mut env) = Nas::lab("25.10.1", "agent");
    let key = env.home().join(".ssh/id_ed25519");
    let open = env.home().join("open");
    std::fs::copy(&key, &open).unwrap();
    // One round of key derivation, because the strength is not tested.
    let lock = ["-p", "-a", "1", "-P", "", "-N", "open sesame"];
    ssh_keygen(&lock, &key);
    let a = env.name("a");
    let no = env.pixels(["create", &a]).expect(5);
    assert!(no.stderr.contains("passphrase"), "{}", no.stderr);
    assert_eq!(env.remaining(), [""; 0]);

    let agent = Agent::with(&mut env, &open);
    env.pixels(["create", &a]).ok();
    env.pixels(["exec", &a, "--", "true"]).ok();
    drop(agent);
    let mut typed = Pty::pixels(&env, ["exec", &a, "--", "echo", "inside"]);
    typed.expect("Passphrase of");
    typed.send("wrong\r");
    typed.expect("Passphrase of");
    typed.send("open sesame\r");
    typed.expect("inside");
    assert_eq!(typed.exit_code(), 0);
    assert!(!typed.screen().contains("sesame"), "{}", typed.screen());
    let other = env.pixels(["exec", &a, "--", "true"]).expect(125);
    assert!(other.stderr.contains("passphrase"), "{}", other.stderr);
}

#[test]
#[ignore = "needs Incus"]
fn truenas_rsa_key_requires_agent() {
    let (nas, mut env) = Nas::lab("25.10.1", "rsa");
    let key = env.home().join(".ssh/id_ed25519");
    let make = |kind: &str, more: &[&str]| {
        let _ = std::fs::remove_file(&key);
        let _ = std::fs::remove_file(key.with_extension("pub"));
        ssh_keygen(&[&["-N", "", "-t", kind], more].concat(), &key);
    };
    let a = env.name("a");
    let refused = |env: &TestEnv, args: &[&str], code: i32| {
        let printed = env.pixels_within(args, LIMIT).expect(code).stderr;
        assert!(printed.contains(key.to_str().unwrap()), "{printed}");
        assert!(printed.contains("ssh-keygen -t ed25519"), "{printed}");
        assert!(printed.contains("ssh-add"), "{printed}");
    };
    // Tries both key formats, with and without the public key file.
    for more in [&["-m", "PEM"][..], &[]] {
        make("rsa", more);
        refused(&env, &["create", &a], 2);
        std::fs::remove_file(key.with_extension("pub")).unwrap();
        refused(&env, &["create", &a], 2);
    }
    assert_eq!(env.remaining(), [""; 0]);
    assert!(!nas.seen().contains(&"virt.instance.create".to_owned()));

    make("rsa", &[]);
    let agent = Agent::with(&mut env, &key);
    env.pixels(["create", &a]).ok();
    env.pixels(["exec", &a, "--", "true"]).ok();
    drop(agent);
    refused(&env, &["exec", &a, "--", "true"], 2);
    // An ECDSA key file works without an agent.
    make("ecdsa", &[]);
    let b = env.create("b");
    env.pixels(["exec", &b, "--", "true"]).ok();
}

#[test]
#[ignore = "needs Incus"]
fn truenas_26_refuses_unsupported_commands() {
    let (_before, mut env) = Nas::lab("25.10.1", "next");
    let a = env.create("a");
    // The server is upgraded and keeps its instances.
    let after = Nas::start("26.0.0", &env);
    after.configure(&mut env);
    assert_eq!(env.remaining(), [&*a]);
    for args in [
        vec!["create", "x"],
        vec!["create", "x", "--from", &a],
        vec!["exec", &a, "--", "true"],
    ] {
        let refused = env.pixels(&args);
        assert!([1, 125].contains(&refused.code), "{refused:?}");
        assert!(
            refused.stderr.contains("TrueNAS 26.0"),
            "{}",
            refused.stderr
        );
    }
    env.pixels(["stop", &a]).ok();
    env.pixels(["start", &a]).ok();
    env.checkpoint(&a, "cp");
    let labels = env.pixels(["checkpoint", "list", &a, "--json"]).ok().json();
    assert_eq!(labels[0]["label"], "cp");
    env.pixels(["checkpoint", "restore", &a, "cp"]).ok();
    env.pixels(["destroy", "-f", &a]).ok();
    env.pixels(["destroy", "-f", &a]).expect(3);
    let old = Nas::start("24.10.2", &env);
    old.configure(&mut env);
    let refused = env.pixels(["list"]).expect(1);
    assert!(refused.stderr.contains("24.10"), "{}", refused.stderr);
    after.configure(&mut env);
}
