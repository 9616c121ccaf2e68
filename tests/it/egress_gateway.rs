//! The gateway while policies change and pixels or the gateway restart.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::rounds::thorough;
use crate::support::server::Server;
use crate::support::wait::{eventually, until};
use crate::support::walls::Walls;
use crate::support::wan::Wan;

const EARLY: &str = include_str!("support/early.pl");

/// A connection on which data arrives continuously.
pub struct Stream {
    child: Child,
    heard: Arc<Mutex<usize>>,
}

impl Stream {
    pub fn open(walls: &Walls, pixel: &str, host: &str) -> Self {
        walls.comes_to_reach(pixel, host, 80);
        let script = format!("exec 3<>/dev/tcp/{host}/80 && echo slow >&3 && cat <&3");
        let mut child = walls
            .env
            .spawn(["exec", pixel, "--", "bash", "-c", &script]);
        let mut stdout = child.stdout.take().unwrap();
        let heard = Arc::new(Mutex::new(0));
        let theirs = heard.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                *theirs.lock().unwrap() += length;
            }
        });
        let stream = Self { child, heard };
        stream.goes_on();
        stream
    }

    #[track_caller]
    pub fn goes_on(&self) {
        let before = *self.heard.lock().unwrap();
        eventually("data arrives", || *self.heard.lock().unwrap() > before + 50);
    }

    /// Waits until the connection is closed from the other side.
    #[track_caller]
    pub fn ends(mut self) {
        eventually("the connection is closed", || {
            self.child.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gateway(walls: &Walls, action: &str) {
    let body = json!({"action": action, "timeout": -1, "force": true});
    let path = format!("/1.0/instances/{}/state", walls.gateway_name());
    walls.server.done("PUT", &path, &body);
}

fn show(env: &TestEnv, pixel: &str) -> Value {
    let show = ["network", "show", pixel, "--json"];
    env.pixels(show).ok().json()
}

#[test]
#[ignore = "needs Incus"]
fn gateway_blocks_denied_traffic_during_changes() {
    lab::ready();
    let walls = Walls::new("mov", Wan::any());
    let env = &walls.env;
    walls.wan.name("allowed.test", &[10]);
    let a = walls.create("a", "allowlist", &["allowed.test"]);
    walls.comes_to_reach(&a, "allowed.test", 443);

    // From here on, the pixel sends packets to a denied host, at every boot
    // from the start.
    let own = walls.place(&a).address;
    let install = format!(
        "printf '[Unit]\\nDefaultDependencies=no\\n[Service]\\n\
         ExecStart=/usr/bin/perl /root/early.pl {} {own}\\n\
         [Install]\\nWantedBy=sysinit.target\\n' >/etc/systemd/system/early.service; \
         cat >/root/early.pl && systemctl enable --now early",
        walls.wan.address(20)
    );
    let args = ["exec", "-u", "root", &a, "--", "sh", "-c", &install];
    env.pixels_with(args, EARLY.as_bytes()).ok();
    let tries = |pixel: &str| {
        let printed = walls.sh(pixel, "cat /run/early").stdout;
        printed.trim().parse::<u32>().unwrap_or(0)
    };
    let goes_on = |pixel: &str| {
        let before = tries(pixel);
        eventually("the pixel still sends", || tries(pixel) > before + 10);
    };
    goes_on(&a);

    // The pixel boots after a restart, as a clone and after a restore.
    env.checkpoint(&a, "ready");
    let (b, from) = (env.name("b"), format!("{a}:ready"));
    env.pixels(["create", &b, "--from", &from]).ok();
    goes_on(&b);
    env.pixels(["stop", &a]).ok();
    env.pixels(["start", &a]).ok();
    goes_on(&a);
    env.pixels(["checkpoint", "restore", &a, "ready"]).ok();
    goes_on(&a);
    walls.comes_to_reach(&b, "allowed.test", 443);

    // Policies are changed while the pixel sends.
    for host in ["x.test", "y.test", "z.test"] {
        env.pixels(["network", "allow", &a, host]).ok();
        env.pixels(["network", "deny", &a, host]).ok();
    }
    goes_on(&a);

    // The gateway is restarted, stopped and rebuilt.
    gateway(&walls, "restart");
    goes_on(&a);
    walls.comes_to_reach(&a, "allowed.test", 443);
    gateway(&walls, "stop");
    let listed = env.pixels(["list"]).ok().stdout;
    let reported = env.pixels(["status", &a]).ok();
    assert!(reported.stderr.contains("no network"), "{reported:?}");
    let reported = env.pixels(["status", &a, "--json"]).ok().json();
    assert_eq!(reported["no_network"], "stopped");
    assert!(listed.contains("no network: gateway stopped"), "{listed}");
    assert!(!walls.reaches(&a, "allowed.test", 443));
    goes_on(&a);
    let status = env.pixels(["network", "gateway", "status"]).expect(1);
    assert!(status.stdout.contains("stopped"), "{status:?}");
    env.pixels(["start", &a]).ok();
    walls.comes_to_reach(&a, "allowed.test", 443);
    env.pixels(["network", "gateway", "rebuild"]).ok();
    goes_on(&a);
    goes_on(&b);
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.comes_to_reach(&b, "allowed.test", 443);
    assert!(!walls.wan.saw("pxtearlyq"), "a packet passed the gateway");

    // Without the policy, the packets of the same service arrive.
    env.pixels(["network", "set", &a, "unrestricted"]).ok();
    eventually("an allowed packet arrives", || walls.wan.saw("pxtearlyq"));
    env.pixels(["checkpoint", "restore", &a, "ready"]).ok();
    assert_eq!(show(env, &a)["mode"], "allowlist");
    walls.wan.forget();
    goes_on(&a);
    walls.comes_to_reach(&a, "allowed.test", 443);
    let escaped = walls.wan.saw("pxtearlyq");
    assert!(!escaped, "a packet passed the gateway after a restore");
}

#[test]
#[ignore = "needs Incus"]
fn gateway_enforces_policy_changes() {
    lab::ready();
    let walls = Walls::new("pol", Wan::any());
    let env = &walls.env;
    walls.wan.name("allowed.test", &[10]);
    walls.wan.name("sub.allowed.test", &[10]);
    walls.wan.name("other.test", &[20]);
    walls.wan.name("many.test", &[11, 12]);
    walls.wan.name("moves.test", &[21]);
    walls.wan.name("x.wild.test", &[22]);
    walls.wan.name("wild.test", &[22]);
    let inward = Ipv4Addr::new(10, 0, 0, 1);
    walls.wan.name_outside("inward.test", inward);
    let a = walls.create("a", "unrestricted", &[]);
    walls.comes_to_reach(&a, "other.test", 80);

    let address = |last: u8| walls.wan.address(last).to_string();

    // A policy change closes connections that the new policy denies and keeps
    // connections that the new policy allows.
    let cut = Stream::open(&walls, &a, "other.test");
    let kept = Stream::open(&walls, &a, "allowed.test");
    let restrict = ["network", "set", &a, "allowlist", "--allow", "allowed.test"];
    env.pixels(restrict).ok();
    cut.ends();
    kept.goes_on();
    assert!(!walls.reaches(&a, "other.test", 80));
    assert!(!walls.reaches(&a, &address(20), 80));
    assert!(!walls.reaches(&a, "sub.allowed.test", 80));
    let port_80 = format!("{}:80", address(60));
    let more = [
        "many.test:443",
        "moves.test",
        "*.wild.test",
        &port_80,
        "inward.test",
    ];
    let allow = [&["network", "allow", &a], &more[..]].concat();
    env.pixels(allow).ok();
    kept.goes_on();

    // Rules match names with several or changing addresses, and subdomains.
    assert!(walls.reaches(&a, "many.test", 443));
    assert!(walls.reaches(&a, &address(11), 443) && walls.reaches(&a, &address(12), 443));
    assert!(!walls.reaches(&a, &address(11), 80));
    // `network check` reports addresses that an allowed name has resolved to.
    let check = |host: &str| env.pixels(["network", "check", &a, host]);
    let learned = format!("{}:443 is allowed by many.test:443, from", address(11));
    let reported = check(&format!("{}:443", address(11))).ok().stdout;
    assert!(reported.contains(&learned), "{reported}");
    check(&format!("{}:80", address(11))).expect(1);
    check(&format!("{}:443", address(13))).expect(1);
    assert!(walls.reaches(&a, "moves.test", 443));
    walls.wan.name("moves.test", &[22]);
    walls.sh(&a, "resolvectl flush-caches || true").ok();
    assert!(walls.reaches(&a, "moves.test", 443));
    assert!(walls.reaches(&a, "x.wild.test", 443));
    assert!(!walls.reaches(&a, "wild.test", 443));
    assert!(walls.reaches(&a, &address(60), 80) && !walls.reaches(&a, &address(60), 443));
    // A name that resolves to an internal address does not allow that address.
    assert!(!walls.reaches(&a, "inward.test", 53));

    // `network show` prints the rules in the order in which they were set.
    let shown = show(env, &a);
    assert_eq!(shown["mode"], "allowlist");
    let allow = [&["allowed.test"][..], &more].concat();
    assert_eq!(shown["allow"], json!(allow));

    // An invalid rule changes nothing.
    for hostile in [
        "a;b",
        "a\nb",
        "\"a\"",
        "'a'",
        "$(id)",
        "a b",
        "*",
        "0.0.0.0/0",
        "a/b",
        "https://x.test/",
    ] {
        let allow = ["network", "allow", &a, "good.test", hostile];
        let refused = env.pixels(allow).expect(2);
        assert!(refused.stderr.len() > 20, "{refused:?}");
        let set = ["network", "set", &a, "allowlist", "--allow", hostile];
        env.pixels(set).expect(2);
        let (x, policy) = (env.name("x"), ["--egress", "allowlist", "--allow", hostile]);
        let create = [&["create", &x], &policy[..]].concat();
        env.pixels(create).expect(2);
    }
    env.pixels(["network", "allow", &a, "-x"]).expect(2);
    env.pixels(["network", "allow", &a, "--", "-x"]).expect(2);
    let deny = ["network", "deny", &a, "nowhere.test"];
    env.pixels(deny).expect(2);
    assert_eq!(show(env, &a), shown);

    // `network log` lists each denial with the command that allows it.
    assert!(!walls.reaches(&a, "wanted.test", 443));
    walls.wan.name("wanted.test", &[12]);
    let log = || env.pixels(["network", "log", &a, "--json"]).ok().json();
    let find = |destination: &str| {
        let log = log();
        let mut denials = log.as_array().unwrap().iter();
        let denial = denials.find(|one| one["destination"] == destination)?;
        Some(denial["admit"].as_str()?.to_owned())
    };
    let admit = until("the name is in the log", || find("wanted.test"));
    assert!(find(&format!("{}:80", address(20))).is_some(), "{}", log());
    let check = ["network", "check", &a, "wanted.test:443"];
    let denied = env.pixels(check).expect(1);
    assert!(denied.stdout.contains("is denied"), "{denied:?}");
    env.pixels(admit.split(' ').skip(1)).ok();
    assert!(walls.reaches(&a, "wanted.test", 443));
    let allowed = env.pixels(check).ok();
    assert!(allowed.stdout.contains("by wanted.test"), "{allowed:?}");
    env.pixels(["network", "deny", &a, "wanted.test"]).ok();
    assert!(!walls.reaches(&a, &address(12), 80));

    // A rule of a preset can be removed.
    env.pixels(["network", "set", &a, "agent"]).ok();
    let preset = env.pixels(["network", "presets", "--json"]).ok().json();
    let first = preset["agent"][0]["entries"][0].as_str().unwrap();
    walls.wan.name(first, &[20]);
    assert!(walls.reaches(&a, first, 443));
    env.pixels(["network", "deny", &a, first]).ok();
    assert!(!walls.reaches(&a, first, 443));
    let shown = env.pixels(["network", "show", &a]).ok().stdout;
    assert!(shown.contains("Mode: agent"), "{shown}");
    assert!(shown.contains(first), "{shown}");

    // Checkpoints, clones and restarts keep the policy, and the policy of a
    // stopped pixel can be set.
    env.checkpoint(&a, "agent");
    env.pixels(["network", "set", &a, "unrestricted"]).ok();
    assert!(walls.reaches(&a, "other.test", 80));
    let (b, from) = (env.name("b"), format!("{a}:agent"));
    env.pixels(["create", &b, "--from", &from]).ok();
    env.pixels(["checkpoint", "restore", &a, "agent"]).ok();
    for pixel in [&a, &b] {
        walls.wan.name("api.openai.com", &[22]);
        walls.comes_to_reach(pixel, "api.openai.com", 443);
        assert!(!walls.reaches(pixel, first, 443));
        assert!(!walls.reaches(pixel, "other.test", 80));
        assert_eq!(show(env, pixel)["mode"], "agent");
    }
    env.pixels(["stop", &b]).ok();
    let restrict = ["network", "set", &b, "allowlist", "--allow", "other.test"];
    env.pixels(restrict).ok();
    env.pixels(["start", &b]).ok();
    walls.comes_to_reach(&b, "other.test", 80);
    assert!(!walls.reaches(&b, "api.openai.com", 443));
    let c = env.name("c");
    let policy = ["--egress", "allowlist", "--allow", "allowed.test"];
    let create = [&["create", &c, "--from", &b], &policy[..]].concat();
    env.pixels(create).ok();
    walls.comes_to_reach(&c, "allowed.test", 80);
    assert!(!walls.reaches(&c, "other.test", 80));

    // The host can connect to a service in the pixel.
    let place = walls.place(&b).address;
    let listen = "use Socket; socket(S,2,1,0); bind(S,pack_sockaddr_in(8000,INADDR_ANY)); listen(S,5); \
                  print qq(listening\\n); STDOUT->flush; while(accept(C,S)){syswrite C,qq(from inside\\n); close C}";
    let mut server = env.spawn(["exec", &b, "--", "perl", "-MIO::Handle", "-e", listen]);
    let (mut printed, mut text) = ([0; 9], String::new());
    let stdout = server.stdout.as_mut().unwrap();
    stdout.read_exact(&mut printed).unwrap();
    let mut inside = TcpStream::connect((place.as_str(), 8000)).unwrap();
    let limit = Some(Duration::from_secs(10));
    inside.set_read_timeout(limit).unwrap();
    inside.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from inside\n");
    let _ = server.kill();
    let _ = server.wait();

    broken_gateways_let_nothing_through(&walls, &a);
}

/// A policy that cannot be enforced fails, changes nothing and allows nothing.
fn broken_gateways_let_nothing_through(walls: &Walls, a: &str) {
    let env = &walls.env;
    let record = show(env, a);
    let hide = ["sh", "-c", "mv /usr/sbin/nft /usr/sbin/nft.off; echo done"];
    assert!(
        walls
            .server
            .run(&walls.gateway_name(), &hide)
            .contains("done")
    );
    let d = env.name("d");
    let failed = env.pixels(["create", &d, "--egress", "agent"]).expect(1);
    assert!(failed.stderr.contains(&walls.gateway_name()), "{failed:?}");
    env.pixels(["start", &d]).expect(3);
    env.pixels(["network", "set", a, "unrestricted"]).expect(1);
    assert_eq!(show(env, a), record);
    assert!(!walls.reaches(a, "other.test", 80));
    let status = env.pixels(["network", "gateway", "status"]).expect(1);
    assert!(status.stdout.contains("broken"), "{status:?}");
    let doctor = env.pixels(["doctor"]);
    assert_eq!(doctor.code, 2, "{doctor:?}");
    let fix = "pixels network gateway rebuild";
    assert!(doctor.stdout.contains(fix), "{doctor:?}");
    env.pixels(["network", "gateway", "rebuild"]).ok();
    walls.comes_to_reach(a, "api.openai.com", 443);
    env.pixels(["network", "gateway", "status"]).ok();

    // The next command repairs a damaged gateway.
    for harm in [
        "nft delete table inet pixels",
        "systemctl stop pixels-dhcp pixels-forwarder pixels-queries.socket 'pixels-resolver@*'",
    ] {
        walls.server.run(&walls.gateway_name(), &["sh", "-c", harm]);
        assert!(!walls.reaches(a, "other.test", 80));
        env.pixels(["network", "gateway", "status"]).ok();
        walls.comes_to_reach(a, "api.openai.com", 443);
        assert!(!walls.reaches(a, "other.test", 80));
    }
}

/// Concurrent clients create, change and destroy pixels.
#[test]
#[ignore = "needs Incus"]
fn concurrent_changes_leave_gateway_in_recorded_state() {
    lab::ready();
    let walls = Walls::new("many", Wan::any());
    let env = &walls.env;
    walls.wan.name("allowed.test", &[10]);
    walls.wan.name("other.test", &[20]);
    let source = walls.create("s", "allowlist", &["allowed.test"]);
    env.checkpoint(&source, "ready");
    let count = if thorough() { 50 } else { 12 };
    let from = format!("{source}:ready");
    let prefix = env.name("f");
    let forked = env.pixels(["fork", &from, "-n", &count.to_string(), "--prefix", &prefix]);
    assert_eq!(forked.ok().stdout.lines().count(), count);
    let names = (1..=count).map(|number| format!("{prefix}-{number}"));
    let names: Vec<String> = names.collect();
    std::thread::scope(|scope| {
        for (number, name) in names.iter().enumerate() {
            scope.spawn(move || match number % 3 {
                0 => drop(env.pixels(["destroy", "--force", name]).ok()),
                1 => {
                    let set = ["network", "set", name, "allowlist", "--allow", "other.test"];
                    env.pixels(set).ok();
                    env.pixels(["network", "allow", name, &format!("x{number}.test")])
                        .ok();
                }
                _ => drop(env.pixels(["network", "set", name, "unrestricted"]).ok()),
            });
        }
        let extra = env.name("n");
        scope.spawn(move || {
            for _ in 0..2 {
                env.pixels(["create", &extra, "--egress", "agent"]).ok();
                env.pixels(["destroy", "--force", &extra]).ok();
            }
        });
    });
    // Concurrent changes of one policy are all recorded.
    std::thread::scope(|scope| {
        for number in 0..6 {
            let source = &source;
            scope.spawn(move || {
                let entry = format!("at-once-{number}.test");
                env.pixels(["network", "allow", source, &entry]).ok();
            });
        }
    });
    let shown = show(env, &source);
    assert_eq!(shown["allow"].as_array().unwrap().len(), 7, "{shown}");
    let kept = |(number, _): &(usize, &String)| number % 3 != 0;
    for (number, name) in names.iter().enumerate().filter(kept) {
        walls.comes_to_reach(name, "other.test", 80);
        let open = number % 3 == 2;
        let address = walls.wan.address(21).to_string();
        assert_eq!(walls.reaches(name, &address, 443), open, "{name}");
    }
    let list = ["nft", "list set inet pixels pins"];
    let pins = walls
        .server
        .run(&walls.gateway_name(), &list)
        .replace(',', " ");
    let words: Vec<&str> = pins.split_whitespace().collect();
    let enforced: BTreeSet<(String, String)> = words
        .windows(3)
        .filter(|three| three[1] == "." && three[0].contains(':'))
        .map(|three| (three[0].to_owned(), three[2].to_owned()))
        .collect();
    let all = walls.server.get("/1.0/instances?recursion=1");
    let recorded: BTreeSet<(String, String)> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["devices"]["eth0"]["network"] == walls.wan.bridge())
        .map(|one| {
            let text = |key: &str| one["config"][key].as_str().unwrap().to_owned();
            (text("volatile.eth0.hwaddr"), text("user.pixels.address"))
        })
        .collect();
    assert_eq!(recorded.len(), 1 + count - count.div_ceil(3));
    assert_eq!(enforced, recorded);
    let addresses: BTreeSet<&String> = recorded.iter().map(|(_, address)| address).collect();
    assert_eq!(addresses.len(), recorded.len());
    // `gateway status` changes nothing, because the state was correct. Other tests
    // change the host's addresses at the same time.
    let script = "cd /var/lib/pixels/gateway/state && \
                  grep -rv -e 'inet pixels host ' --exclude=applied . | sort";
    let applied = || {
        walls
            .server
            .run(&walls.gateway_name(), &["sh", "-c", script])
    };
    let before = applied();
    env.pixels(["network", "gateway", "status"]).ok();
    assert_eq!(applied(), before);
    assert!(before.contains("inet pixels live"), "{before}");
}

/// The rules do not fit into one transaction of the kernel.
#[test]
#[ignore = "needs Incus"]
fn policy_with_hundreds_of_names_is_applied() {
    lab::ready();
    let walls = Walls::new("big", Wan::any());
    walls.wan.name("allowed.test", &[10]);
    let pixel = walls.create("a", "unrestricted", &[]);
    let names = (0..400).map(|number| format!("host-{number}.test"));
    let names = names.chain(["allowed.test".to_owned()]);
    let rules = names.flat_map(|name| ["--allow".to_owned(), name]);
    let set = ["network", "set", &pixel, "allowlist"].map(str::to_owned);
    let set: Vec<String> = set.into_iter().chain(rules).collect();
    walls.env.pixels(&set).ok();
    walls.comes_to_reach(&pixel, "allowed.test", 80);
    assert!(!walls.reaches(&pixel, &walls.wan.address(20).to_string(), 80));
    gateway(&walls, "restart");
    walls.comes_to_reach(&pixel, "allowed.test", 80);
}

/// Several clients create the first gateway at the same time, and update the
/// gateway of an earlier version, which restarts with other hooks.
#[test]
#[ignore = "needs Incus"]
fn concurrent_gateway_creation_and_update_succeed() {
    lab::ready();
    const CLIENTS: usize = 4;
    let mut env = TestEnv::new("first");
    env.set("PIXELS_NETWORK_BRIDGE", "pxfirst0");
    let remove = ["network", "gateway", "remove"];
    env.pixels(remove).ok();
    let create_and_destroy = || {
        let names: Vec<String> = (0..CLIENTS).map(|n| env.name(&n.to_string())).collect();
        std::thread::scope(|scope| {
            for name in &names {
                let create = ["create", name, "--egress", "agent"];
                let env = &env;
                scope.spawn(move || drop(env.pixels(create).ok()));
            }
        });
        let names = names.iter().map(String::as_str);
        env.pixels(["destroy", "--force"].into_iter().chain(names))
            .ok();
    };
    create_and_destroy();
    env.pixels(remove).ok();
    create_and_destroy();
    let earlier = json!({"config": {"raw.lxc": "", "user.pixels.gateway": "earlier"}});
    let path = "/1.0/instances/px-gateway-pxfirst0";
    Server::shared().done("PATCH", path, &earlier);
    create_and_destroy();
    env.pixels(remove).ok();
}

/// The bridge interface exists on the host but not in Incus.
#[test]
#[ignore = "needs Incus"]
fn create_with_foreign_bridge_interface_names_it() {
    lab::ready();
    let mut env = TestEnv::new("left");
    env.set("PIXELS_NETWORK_BRIDGE", "pxleft0");
    let name = env.name("a");
    let create = ["create", &name, "--egress", "agent"];
    let link = |words: &[&str]| {
        let mut ip = std::process::Command::new("ip");
        ip.arg("link").args(words).status().unwrap().success()
    };
    link(&["delete", "pxleft0"]);
    assert!(link(&["add", "pxleft0", "type", "bridge"]));
    let refused = env.pixels_within(create, Duration::from_secs(60)).expect(2);
    let hint = "`ip link delete pxleft0`";
    assert!(refused.stderr.contains(hint), "{}", refused.stderr);
    // `TestEnv` runs the command of the hint and creates the pixel again.
    env.pixels(create).ok();
    env.pixels(["destroy", "--force", &name]).ok();
    env.pixels(["network", "gateway", "remove"]).ok();
    assert!(!link(&["show", "pxleft0"]));
}
