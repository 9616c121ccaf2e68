//! Egress policies enforced inside pixels, on a real daemon. They apply after
//! every boot, in clones and after restores, and match the recorded policy.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{IpAddr, TcpStream};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::env::{Outcome, TestEnv, finished, spawn};
use crate::support::proxy::{Fault, Proxy};
use crate::support::server::Server;
use crate::support::wan_pixel::Wan;
use crate::support::{lab, wait};

/// An environment for pixels without a gateway on a fake internet.
pub fn inside(test: &str, wan: &Wan, more: &str) -> TestEnv {
    let env = TestEnv::new(test);
    env.config(&format!(
        "[network]\nplacement = \"pixel\"\n[defaults]\ndns = [\"{}\"]\n{more}",
        wan.resolver()
    ));
    env
}

pub fn sh(env: &TestEnv, name: &str, script: &str) -> Outcome {
    env.pixels(["exec", name, "--", "bash", "-c", script])
}

/// A pixel that enforces its policy itself.
struct Pixel<'a> {
    env: &'a TestEnv,
    name: String,
}

impl<'a> Pixel<'a> {
    /// Creates a pixel with an allowlist.
    fn create(env: &'a TestEnv, short: &str, allow: &[&str]) -> Self {
        let name = env.name(short);
        let mut args = vec!["create", &name, "--egress", "allowlist"];
        args.extend(allow.iter().flat_map(|entry| ["--allow", *entry]));
        env.pixels(args).ok();
        Self { env, name }
    }

    fn sh(&self, script: &str) -> Outcome {
        sh(self.env, &self.name, script)
    }

    fn network(&self, verb: &str, more: &[&str]) -> Outcome {
        let args = [&["network", verb, &self.name], more].concat();
        self.env.pixels(args)
    }

    fn show(&self) -> Value {
        self.network("show", &["--json"]).ok().json()
    }

    /// Sets an allowlist with one entry.
    fn allow_only(&self, entry: &str) {
        self.network("set", &["allowlist", "--allow", entry]).ok();
    }

    fn restart(&self) {
        self.env.pixels(["stop", &self.name]).ok();
        self.env.pixels(["start", &self.name]).ok();
    }

    /// Waits until the server at this address sends its greeting.
    #[track_caller]
    fn answers(&self, host: &str) {
        let script = format!("timeout 5 head -n 1 </dev/tcp/{host}/80 2>&1");
        wait::eventually("the allowed host answers", || {
            self.sh(&script).stdout.trim() == "hello"
        });
    }

    /// The recorded rules.
    #[track_caller]
    fn in_force(&self) -> Value {
        let shown = self.show();
        assert_eq!(shown["enforced_by"], "pixel", "{shown}");
        shown["in_force"].clone()
    }

    /// The names that the pixel's resolver allows.
    #[track_caller]
    fn really(&self) -> Value {
        let script = "until systemctl list-jobs; do sleep 0.1; done >/dev/null 2>&1
                      systemctl start pixels-resolver
                      sed -n 's,^server=/\\([a-z].*\\)/.*,\\1,p' /var/lib/pixels/egress/resolver | sort -u
                      systemctl -q is-active pixels-resolver pixels-egress && nft -t list chain inet pixels outgoing";
        let stdout = self.sh(script).ok().stdout;
        assert!(stdout.contains("policy drop"), "{stdout}");
        let names = stdout.lines().take_while(|line| !line.starts_with("table"));
        names.collect()
    }

    /// Starts a command in the pixel that runs until the test ends.
    fn background(&self, script: &str) -> Background {
        let argv = ["exec", &self.name, "--", "bash", "-c", script];
        let mut child = self.env.spawn(argv);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Background { child, lines }
    }

    fn address(&self) -> IpAddr {
        wait::until("the pixel has an address", || {
            let all = self.env.pixels(["list", "--json"]).ok().json();
            let mut all = all.as_array()?.iter();
            let pixel = all.find(|p| p["name"] == self.name.as_str())?;
            assert_eq!(pixel["enforced_by"], "pixel");
            pixel["ip"].as_str()?.parse().ok()
        })
    }
}

/// Installs a service that sends to a denied host from early boot on.
fn try_early(pixel: &Pixel<'_>, wan: &Wan) {
    let script = format!(
        "cat >/etc/systemd/system/early.service <<'EOF'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/bash -c 'while :; do echo >/dev/udp/{denied}/9; (echo >/dev/tcp/{denied}/80); ping -c1 -W1 {denied}; done'
[Install]
WantedBy=sysinit.target
EOF
systemctl -q enable --now early",
        denied = wan.address(20)
    );
    pixel.sh(&script).ok();
}

fn is_trying(pixel: &Pixel<'_>) -> bool {
    let script = "systemctl is-active early && [ -s /proc/net/route ]";
    pixel.sh(script).stdout == "active\n"
}

#[test]
#[ignore = "needs Incus"]
fn allowed_hosts_answer_and_denied_hosts_are_logged() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel", wan, "");
    let pixel = Pixel::create(&env, "box", &["allowed.test"]);
    assert_eq!(pixel.in_force(), json!(["allowed.test"]));
    pixel.answers("allowed.test");
    let unknown = pixel.sh("getent hosts denied.test").expect(2);
    assert_eq!(unknown.stdout, "");
    wan.refuses_and_logs(&env, &pixel.name);

    // Other machines can still connect to the pixel.
    let mut server = pixel.background(SERVER);
    assert_eq!(server.line(), "ready");
    let address = pixel.address();
    let mut from_outside = TcpStream::connect((address, 8022)).unwrap();
    from_outside.write_all(b"x\n").unwrap();
    let mut line = String::new();
    BufReader::new(&from_outside).read_line(&mut line).unwrap();
    assert_eq!(line, "served\n");
    // The pixel's resolver answers only the pixel.
    let shortly = Duration::from_millis(300);
    assert!(TcpStream::connect_timeout(&(address, 553).into(), shortly).is_err());
}

/// Answers each connection on port 8022 with one line.
const SERVER: &str = "exec perl -MSocket -e '
    socket(S, PF_INET, SOCK_STREAM, 0); setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1);
    bind(S, sockaddr_in(8022, INADDR_ANY)) and listen(S, 5) or die; $| = 1; print \"ready\\n\";
    while (accept(C, S)) { sysread(C, $line, 100); syswrite(C, \"served\\n\"); close C }'";

struct Background {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Background {
    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that prints "up" when connected and "cut" when answers stop.
fn talk(host: &str) -> String {
    format!(
        "until exec 3<>/dev/tcp/{host}/80; do sleep 0.1; done 2>/dev/null
         read -r -u 3 line; echo up
         while echo \"$((count++))\" >&3 && read -r -t 5 -u 3 line; do sleep 0.05; done 2>/dev/null
         echo cut"
    )
}

#[test]
#[ignore = "needs Incus"]
fn policy_change_closes_denied_connections() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-cut", wan, "");
    let pixel = Pixel::create(&env, "box", &["allowed.test", "other.test"]);
    let allowed = json!(["allowed.test"]);
    let mut kept = pixel.background(&talk("allowed.test"));
    let mut lost = pixel.background(&talk("other.test"));
    assert_eq!((kept.line(), lost.line()), ("up".into(), "up".into()));
    pixel.network("deny", &["other.test"]).ok();
    assert_eq!(lost.line(), "cut");
    assert_eq!(pixel.in_force(), allowed);
    assert_eq!(pixel.really(), allowed);
    assert!(kept.child.try_wait().unwrap().is_none());

    // A new policy also closes connections that were open before.
    pixel.network("set", &["unrestricted"]).ok();
    pixel.answers(&wan.address(11));
    let shown = pixel.show();
    assert_eq!(shown["enforced"], false);
    assert_eq!(shown["enforced_by"], json!(null));
    pixel.sh("nft list table inet pixels").expect(1);
    let mut open = pixel.background(&talk(&wan.address(11)));
    assert_eq!(open.line(), "up");
    pixel.allow_only("allowed.test");
    assert_eq!(open.line(), "cut");
    // Repeated changes do not reach systemd's start limit for the services.
    for _ in 0..4 {
        pixel.network("set", &["unrestricted"]).ok();
        pixel.allow_only("allowed.test");
    }
    pixel.sh("systemctl is-active systemd-resolved").ok();
    pixel.answers("allowed.test");

    // A client with other settings does not change the pixel's resolvers.
    let allow = ["network", "allow", &pixel.name, "allowed.test"];
    let elsewhere = env.command(allow).env("HOME", "/nonexistent").output();
    assert!(elsewhere.unwrap().status.success());
    pixel.answers("allowed.test");

    // Root removed the policy: `show` reports the loss, and `allow` repairs it.
    assert_eq!(pixel.show()["holds"], true);
    let remove =
        "nft delete table inet pixels; rm /etc/systemd/system/pixels-*; systemctl daemon-reload";
    pixel.sh(remove).ok();
    assert_eq!(pixel.show()["holds"], false);
    let status = env.pixels(["status", &pixel.name]).ok().stderr;
    assert!(status.contains("does not enforce its policy"), "{status}");
    pixel.network("allow", &["allowed.test"]).ok();
    assert_eq!(pixel.show()["holds"], true);
    assert_eq!(pixel.really(), allowed);

    // After concurrent changes, the policy inside equals the record.
    let at_once = ["a.test", "b.test", "c.test", "d.test"]
        .map(|entry| env.spawn(["network", "allow", &pixel.name, entry]));
    for change in at_once {
        finished(change, Duration::from_secs(60)).ok();
    }
    assert_eq!(pixel.really(), pixel.in_force());
    pixel.allow_only("allowed.test");

    // A change that fails changes nothing.
    let hide = "mv /usr/sbin/dnsmasq /usr/sbin/was-dnsmasq; ln -s /bin/false /usr/sbin/dnsmasq";
    pixel.sh(hide).ok();
    pixel.network("allow", &["other.test"]).expect(1);
    assert_eq!(pixel.in_force(), allowed);
    let restore =
        "mv -f /usr/sbin/was-dnsmasq /usr/sbin/dnsmasq; systemctl restart pixels-resolver";
    pixel.sh(restore).ok();
    assert_eq!(pixel.really(), allowed);
    pixel.answers("allowed.test");
}

#[test]
#[ignore = "needs Incus"]
fn policy_survives_restart_clone_and_restore() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-boot", wan, "");
    let pixel = Pixel::create(&env, "box", &["allowed.test"]);
    let name = &pixel.name;
    try_early(&pixel, wan);
    let holds = |pixel: &Pixel<'_>, allowed: &str| {
        wait::eventually("the pixel sends packets", || is_trying(pixel));
        assert_eq!(pixel.in_force(), json!([allowed]));
        assert_eq!(pixel.really(), json!([allowed]));
        pixel.answers(allowed);
        assert_eq!(wan.packets_to(20), 0);
    };
    holds(&pixel, "allowed.test");
    let _ = pixel.sh("touch /run/before; systemctl reboot");
    wait::eventually("the pixel reboots", || {
        pixel.sh("[ ! -e /run/before ]").code == 0
    });
    holds(&pixel, "allowed.test");
    pixel.restart();
    holds(&pixel, "allowed.test");

    // A clone gets the policy of its source or the requested policy.
    env.checkpoint(name, "first");
    let clone = |short: &str, from: &str, more: &[&str]| {
        let name = env.name(short);
        let create = [&["create", &name, "--from", from], more].concat();
        env.pixels(create).ok();
        Pixel { env: &env, name }
    };
    holds(&clone("clone", name, &[]), "allowed.test");
    let origin = format!("{name}:first");
    let other = ["--egress", "allowlist", "--allow", "other.test"];
    holds(&clone("other", &origin, &other), "other.test");

    // A restore also restores the policy of a running or stopped pixel.
    let restore = ["checkpoint", "restore", name, "first"];
    pixel.allow_only("other.test");
    holds(&pixel, "other.test");
    env.pixels(restore).ok();
    holds(&pixel, "allowed.test");
    env.pixels(["stop", name]).ok();
    pixel.allow_only("other.test");
    env.pixels(["start", name]).ok();
    holds(&pixel, "other.test");
    env.pixels(["stop", name]).ok();
    env.pixels(restore).ok();
    env.pixels(["start", name]).ok();
    holds(&pixel, "allowed.test");

    // Behind a gateway, the pixel has no ruleset of its own.
    let name = env.name("behind");
    let mut create = env.command(["create", &name, "--from", &origin]);
    create.env("PIXELS_NETWORK_PLACEMENT", "gateway");
    assert!(create.output().unwrap().status.success());
    let behind = Pixel { env: &env, name };
    assert_eq!(behind.show()["enforced_by"], "gateway");
    behind.sh("nft list table inet pixels").expect(1);
    let unit = "ls /etc/systemd/system/pixels-egress.service";
    behind.sh(unit).expect(2);
}

#[test]
#[ignore = "needs Incus"]
fn invalid_ruleset_keeps_network_down() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-closed", wan, "");
    let pixel = Pixel::create(&env, "box", &["allowed.test"]);
    pixel.answers("allowed.test");
    let damage = "echo no rule >>/var/lib/pixels/egress/ruleset";
    pixel.sh(damage).ok();
    // The daemon restarts the pixel, as after a boot of the host.
    let restart = json!({"action": "restart", "force": true, "timeout": 30});
    let state = format!("/1.0/instances/px-{}/state", pixel.name);
    Server::shared().done("PUT", &state, &restart);
    wait::eventually("the pixel has booted", || {
        let state = pixel.sh("systemctl is-system-running");
        ["degraded\n", "running\n"].contains(&state.stdout.as_str())
    });
    let state = "systemctl is-active pixels-egress systemd-networkd pixels-resolver; ip -4 -o addr show eth0 scope global";
    // A packet for systemd-networkd starts the units again, and they fail again.
    wait::eventually("the units have failed", || {
        let state = pixel.sh(state).stdout;
        let (filter, others) = state.split_once('\n').unwrap();
        assert!(["failed", "activating"].contains(&filter), "{state}");
        assert_eq!(others, "inactive\ninactive\n");
        filter == "failed"
    });
    // `pixels start` repairs the files first.
    pixel.restart();
    pixel.answers("allowed.test");
    assert_eq!(pixel.really(), json!(["allowed.test"]));
}

#[test]
#[ignore = "needs Incus"]
fn policy_without_nft_is_refused() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("pixel-unable", wan, "");
    let name = env.create("source");
    let source = Pixel { env: &env, name };
    let name = &source.name;
    let disable = "rm /usr/sbin/nft; mv /usr/bin/apt-get /usr/bin/no-apt";
    source.sh(disable).ok();
    let reported = source.network("set", &["agent", "--json"]);
    let reported = reported.expect(1).error();
    let message = reported["message"].as_str().unwrap();
    assert!(message.contains("no apt-get"), "{message}");
    assert_eq!(reported["kind"], "unsupported");
    let shown = source.show();
    assert_eq!(shown["mode"], "unrestricted");
    assert_eq!(shown["enforced_by"], json!(null));
    // The failed attempt does not prevent the network from starting.
    let restart =
        "systemctl restart systemd-networkd && [ ! -e /etc/systemd/system/pixels-egress.service ]";
    source.sh(restart).ok();

    let clone = env.name("clone");
    let create = ["create", &clone, "--from", name, "--egress", "agent"];
    let stderr = env.pixels(create).expect(1).stderr;
    assert!(stderr.contains("pixels network set"), "{stderr}");
    assert_eq!(env.remaining(), std::slice::from_ref(name));
    env.pixels(["stop", name]).ok();
    source.network("set", &["agent"]).expect(1);
    env.pixels(["start", name]).ok();
    assert_eq!(source.show()["mode"], "unrestricted");
}

/// Commands that are killed before the pixel has the files of its recorded policy.
#[test]
#[ignore = "needs Incus"]
fn next_start_writes_files_of_killed_commands() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("killed", wan, "");
    let proxy = Proxy::start();
    let state = |name: &str| {
        let path = format!("/1.0/instances/px-{name}");
        let found = Server::shared().try_done("GET", &path, &Value::Null).ok()?;
        Some(
            found["config"]["user.pixels.egress-inside"]
                .as_str()?
                .to_owned(),
        )
    };
    // Runs a command until the server has handled a request, whose answer the
    // command does not get, and kills it.
    let kill_at = |request: &str, args: &[&str], is_done: &dyn Fn() -> bool| {
        proxy.on(request, 0, Fault::StallAfterRequest);
        let mut command = env.command(args);
        command.env("PIXELS_INCUS_SOCKET", proxy.socket());
        let mut child = spawn(&mut command);
        wait::eventually("the server has handled the request", is_done);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(proxy.heal());
    };
    let only_allowed = |pixel: &Pixel<'_>| {
        pixel.answers("allowed.test");
        let address = wan.address(11);
        let reach = format!("timeout 3 head -n 1 </dev/tcp/{address}/80");
        assert_ne!(pixel.sh(&reach).stdout.trim(), "hello");
        assert!(!matches!(
            state(&pixel.name).as_deref(),
            None | Some("pending")
        ));
        assert!(pixel.in_force().to_string().contains("allowed.test"));
    };

    let name = env.name("created");
    let create = [
        "create",
        &name,
        "--egress",
        "allowlist",
        "--allow",
        "allowed.test",
    ];
    let is_created = || Server::shared().status(&name).is_some();
    kill_at("POST /1.0/instances", &create, &is_created);
    assert_eq!(state(&name), None);
    let created = Pixel {
        env: &env,
        name: name.clone(),
    };
    wait::eventually("the pixel is complete on the server", || {
        env.pixels(["start", &name]).code == 0
    });
    only_allowed(&created);

    let open = Pixel {
        env: &env,
        name: env.name("changed"),
    };
    env.pixels(["create", &open.name]).ok();
    open.answers(&wan.address(11));
    let path = format!("PATCH /1.0/instances/px-{}*", open.name);
    let set = [
        "network",
        "set",
        &open.name,
        "allowlist",
        "--allow",
        "allowed.test",
    ];
    kill_at(&path, &set, &|| {
        state(&open.name).as_deref() == Some("pending")
    });
    open.restart();
    only_allowed(&open);
}
