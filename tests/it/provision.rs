//! Provisioning and sessions on a real daemon: results in the pixel, the
//! reported status, and both after restarts.

use std::process::Command;

use crate::support::env::TestEnv;
use crate::support::pty::Pty;
use crate::support::{lab, programs, wait};

/// An environment that provisions pixels with these settings.
fn provisioning(test: &str, config: &str) -> TestEnv {
    let mut env = TestEnv::new(test);
    env.set("PIXELS_PROVISION_ENABLED", "true");
    env.config(config);
    env
}

/// Creates an SSH key in the default location.
fn key(env: &TestEnv) -> std::path::PathBuf {
    let dir = env.home().join(".ssh");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("id_ed25519");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    path
}

#[test]
#[ignore = "needs Incus"]
fn provisioned_pixel_has_user_environment_and_sessions() {
    lab::ready();
    let env = provisioning(
        "ready",
        r##"
[provision]
devtools = false
[env]
FOO = "two words, $$HOME 'q' \"d\""
HASH = "a#b"
SESSION = { value = "mine", session_only = true }
"##,
    );
    let key = key(&env);
    let name = env.name("box");
    // Variables that PAM cannot set are reported.
    env.pixels(["create", &name, "--wait"]).ok().reports("HASH");

    let printed = env.sh(
        &name,
        "id -un; sudo -n id -u; pwd; echo \"$FOO|$HASH|$SESSION\"",
    );
    assert_eq!(
        printed,
        "pixel\n0\n/home/pixel\ntwo words, $HOME 'q' \"d\"|a#b|mine\n"
    );
    // The image's user with uid 1000 was deleted.
    let printed = env.sh(
        &name,
        "id; getent passwd ubuntu; ls -a ~ | grep bashrc; tail -n1 /etc/environment",
    );
    assert!(
        printed.starts_with("uid=1000(pixel) gid=1000(pixel)"),
        "{printed}"
    );
    assert!(!printed.contains("ubuntu"), "{printed}");
    assert!(printed.contains(".bashrc"), "{printed}");

    let status = env.pixels(["status", &name, "--json"]).ok().json();
    assert_eq!(status["overall"], "done");
    let packages = &status["steps"][0];
    assert_eq!(
        (&packages["name"], &packages["status"]),
        (&"packages".into(), &"done".into())
    );
    assert_eq!(packages["exit_code"], 0);
    let seen = env.listed(&name);
    assert_eq!(seen["provision"], "done");

    let by_ssh = |address: &str, command: &str| {
        let output = Command::new("ssh")
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-i"])
            .arg(&key)
            .args([&format!("pixel@{address}"), command])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let address = seen["ip"].as_str().unwrap();
    assert_eq!(
        by_ssh(address, "id -un; echo \"$FOO\"; sudo -n id -u"),
        "pixel\ntwo words, $HOME 'q' \"d\"\n0\n"
    );

    // A second provisioning changes nothing.
    env.pixels(["provision", &name, "--wait"]).ok();
    let again = env.pixels(["status", &name, "--json"]).ok().json();
    assert_eq!(again, status);

    sessions_last(&env, &name);

    // A clone is provisioned too and has a new identity.
    env.checkpoint(&name, "done");
    let clone = env.name("clone");
    env.pixels([
        "create",
        &clone,
        "--from",
        &format!("{name}:done"),
        "--wait",
    ])
    .ok();
    assert_eq!(
        env.pixels(["status", &clone, "--json"]).ok().json()["overall"],
        "done"
    );
    let identity = "cat /etc/machine-id; cut -d ' ' -f 2 /etc/ssh/ssh_host_ed25519_key.pub; id -un";
    let (here, there) = (env.sh(&name, identity), env.sh(&clone, identity));
    for (ours, theirs) in here.lines().zip(there.lines()).take(2) {
        assert_ne!(ours, theirs);
    }
    assert!(there.ends_with("pixel\n"));
    wait::eventually("the clone's SSH server answers", || {
        let seen = env.listed(&clone);
        let address = seen["ip"].as_str();
        address.is_some_and(|ip| by_ssh(ip, "hostname") == format!("px-{clone}\n"))
    });

    // The status is still known after a restart.
    env.pixels(["stop", &clone]).ok();
    env.pixels(["start", &clone]).ok();
    assert_eq!(
        env.pixels(["status", &clone, "--json", "--wait"])
            .ok()
            .json()["overall"],
        "done"
    );
}

fn sessions_last(env: &TestEnv, name: &str) {
    let mut console = Pty::pixels(env, ["console", name]);
    console.send("KEPT=yes; seq 1 99; echo \"[\"first\"]\"\r");
    console.expect("[first]");
    console.resize(101, 37);
    wait::eventually("the session has the new size", || {
        console.send("echo \"<\"$(stty size)\">\"\r");
        console.screen().contains("<37 101>")
    });
    rustix::process::kill_process(console.pid(), rustix::process::Signal::KILL).unwrap();
    drop(console);

    // The console shows the same shell with its previous output.
    let mut console = Pty::pixels(env, ["console", name]);
    console.expect("[first]");
    console.send("echo \"[\"still $KEPT\"]\"\r");
    console.expect("[still yes]");
    let with = |session: &str, clients: u32| {
        let sessions = env.pixels(["sessions", name, "--json"]).ok().json();
        let sessions = sessions.as_array().unwrap();
        sessions
            .iter()
            .any(|s| s["name"] == session && s["clients"] == clients && s["running"] == true)
    };
    wait::eventually("one client is attached", || with("console", 1));
    // Attaches a second client to the session and starts a second session.
    let mut second = Pty::pixels(env, ["console", name]);
    second.expect("[still yes]");
    wait::eventually("two clients are attached", || with("console", 2));
    let mut other = Pty::pixels(env, ["console", name, "-s", "v1.2"]);
    other.send("echo \"[\"other $KEPT\"]\"\r");
    other.expect("[other ]");
    // Ctrl+\ and `detach` both leave the session running.
    second.send("\x1c");
    assert_eq!(second.exit_code(), 0);
    other.send("detach\r");
    assert_eq!(other.exit_code(), 0);
    wait::eventually("both clients are detached", || {
        with("console", 1) && with("v1.2", 0)
    });
    console.send("exit\r");
    assert_eq!(console.exit_code(), 0);
    wait::eventually("the session has ended", || {
        !with("console", 1) && with("v1.2", 0)
    });
    env.pixels(["console", name, "-s", "a b"])
        .expect(2)
        .reports("\"a b\"");
}

#[test]
#[ignore = "needs Incus"]
fn failed_provisioning_step_is_reported() {
    lab::ready();
    let env = provisioning(
        "fails",
        "[provision]\ndevtools = false\nscript = \"~/own.sh\"\n[console]\nmultiplexer = \"none\"\n",
    );
    let script =
        "#!/bin/sh\necho in $PWD as $(id -un)\n[ -e /root/fixed ] || { echo boom >&2; exit 3; }\n";
    std::fs::write(env.home().join("own.sh"), script).unwrap();
    let name = env.name("box");
    env.pixels(["create", &name, "--wait"])
        .expect(1)
        .reports("boom")
        .reports("exit code 3")
        .reports("/var/log/pixels/script.log");

    let status = env.pixels(["status", &name, "--json"]).expect(1).json();
    assert_eq!(status["overall"], "failed");
    let step = &status["steps"][1];
    assert_eq!(step["status"], "failed");
    assert_eq!(step["exit_code"], 3);
    assert_eq!(step["last_line"], "boom");
    let table = env.pixels(["list"]).ok().stdout;
    let line = table.lines().find(|line| line.starts_with(&name)).unwrap();
    assert!(line.contains("provisioning failed"), "{line}");

    env.sh(&name, "sudo touch /root/fixed");
    let done = env.pixels(["provision", &name, "--wait"]).ok();
    assert!(done.stdout.contains("Provisioned"), "{}", done.stdout);
    env.pixels(["status", &name, "--follow"])
        .ok()
        .reports("in /home/pixel as root");
    assert_eq!(env.listed(&name)["provision"], "done");

    // Invalid settings are reported before a pixel is created.
    std::fs::write(env.home().join("own.sh"), "no interpreter\n").unwrap();
    env.pixels(["create", &env.name("bad")])
        .expect(2)
        .reports("provision.script");
    assert_eq!(env.remaining(), [name]);
}

/// The settings of a user behind a TLS-inspecting proxy with an npm mirror: the
/// proxy's CA, a custom install script and a tool list.
#[test]
#[ignore = "needs Incus"]
fn provisioning_installs_tools_from_mirror() {
    lab::ready();
    programs::ready(&[programs::NPM]);
    let registry = registry();
    let installer = include_str!("support/install-mise.sh").to_owned();
    let server = crate::support::web::serve_on_bridge(
        "incusbr0",
        installer.replace("\"$PIXELS_TEST_REGISTRY\"", &registry),
    );
    let authorities: Vec<String> = std::fs::read_dir("/usr/local/share/ca-certificates")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
        .filter(|path| path.ends_with(".crt"))
        .collect();
    // The mirror is on the host, which the policy must allow.
    let host = server.split('/').nth(2).unwrap();
    let env = provisioning(
        "tools",
        &format!(
            "[provision]\ninstaller_url = \"{server}\"\ntools = [\"npm:@openai/codex\"]\nca_certs = {authorities:?}\n\
             [env]\nMISE_NPM_PACKAGE_MANAGER = \"npm\"\n[console]\nmultiplexer = \"none\"\n\
             [network]\nallow = [{host:?}]\n"
        ),
    );
    let name = env.name("box");
    env.pixels(["create", &name, "--wait"]).ok();
    let version = env.pixels(["exec", &name, "--", "codex", "--version"]).ok();
    assert!(version.stdout.starts_with("codex"), "{}", version.stdout);
}

/// The npm registry configured on this machine.
fn registry() -> String {
    let output = Command::new("npm")
        .args(["config", "get", "registry"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let url = text.trim().trim_end_matches('/');
    assert!(url.starts_with("http"), "npm's registry is {url:?}");
    url.to_owned()
}
