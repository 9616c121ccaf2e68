//! The resolvers and connections of the gateway: which flows a policy change
//! ends, which DNS records pixels get, and how long learned addresses last.

use std::io::{BufRead, BufReader, Write};
use std::process::Child;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::wait::eventually;
use crate::support::walls::Walls;
use crate::support::wan::Wan;

const HELPER: &str = include_str!("support/resolver.pl");

/// Runs lines of the helper in a pixel as root. Returns one printed line for
/// each.
#[track_caller]
pub fn helper(env: &TestEnv, pixel: &str, lines: &[&str]) -> Vec<String> {
    let script = format!("{HELPER}{}\n", lines.join("\n"));
    let args = ["exec", "-u", "root", pixel, "--", "perl", "-"];
    let printed = env.pixels_with(args, script.as_bytes()).ok().stdout;
    let printed: Vec<String> = printed.lines().map(str::to_owned).collect();
    assert_eq!(printed.len(), lines.len(), "{printed:?}");
    printed
}

/// A line of the helper that runs until dropped.
pub struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    pub fn start(env: &TestEnv, pixel: &str, line: &str) -> Self {
        let mut child = env.spawn(["exec", "-u", "root", pixel, "--", "perl", "-"]);
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{HELPER}{line}").unwrap();
        drop(stdin);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for a number of printed lines and returns them.
    #[track_caller]
    pub fn prints(&mut self, count: usize) -> Vec<String> {
        let line = |_| self.lines.next().expect("the helper ended").unwrap();
        (0..count).map(line).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gateway_sh(walls: &Walls, script: &str) -> String {
    walls
        .server
        .run(&walls.gateway_name(), &["sh", "-c", script])
}

#[test]
#[ignore = "needs Incus"]
fn policy_change_ends_flows_to_previous_resolver() {
    lab::ready();
    let walls = Walls::new("flw", Wan::any());
    let (env, wan) = (&walls.env, &walls.wan);
    wan.name("own.test", &[10]);
    wan.name("other.test", &[20]);
    // The resolver of the previous policy remains in use by this pixel.
    let other = walls.create("c", "unrestricted", &[]);
    let pixel = walls.create("d", "unrestricted", &[]);
    walls.comes_to_reach(&pixel, "other.test", 80);
    let server = walls.gateway().address;

    let keep = format!("keep {server} pxtflowudpq pxtflowtcpq");
    let mut flows = Running::start(env, &pixel, &keep);
    for label in ["pxtflowudpq", "pxtflowtcpq"] {
        eventually("the flow reaches the name server", || {
            flows.prints(1);
            wan.saw(label)
        });
    }
    let narrow = ["network", "set", &pixel, "allowlist", "--allow", "own.test"];
    env.pixels(narrow).ok();
    wan.forget();
    flows.prints(20);
    for label in ["pxtflowudpq", "pxtflowtcpq"] {
        assert!(!wan.saw(label), "{label} arrives after the change");
    }
    drop(flows);
    walls.comes_to_reach(&pixel, "own.test", 80);
    assert!(!walls.reaches(&pixel, "other.test", 80));

    // The same for a rule that is removed.
    env.pixels(["network", "allow", &pixel, "other.test"]).ok();
    let mut flows = Running::start(env, &pixel, &format!("keep {server} other other"));
    eventually("both flows get answers", || {
        flows.prints(1)[0].matches("answers=1").count() == 2
    });
    env.pixels(["network", "deny", &pixel, "other.test"]).ok();
    let changed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // Other lines were printed before the change.
    let is_later = |line: &str| {
        let (seconds, _) = line.split_once(' ').unwrap();
        seconds.parse::<u64>().unwrap() > changed.as_secs()
    };
    while !is_later(&flows.prints(1)[0]) {}
    let answers = flows.prints(20).concat();
    assert!(!answers.contains("answers=1"), "{answers}");
    drop(flows);

    // Answers have no keys for encrypted server names. Queries for IPv6
    // addresses are answered by the gateway.
    let ask = |pixel: &str, query: &str| {
        let line = format!("ask {server} {query}");
        helper(env, pixel, &[&line]).remove(0)
    };
    for pixel in [&pixel, &other] {
        for kind in ["64", "65", "255"] {
            let answer = ask(pixel, &format!("own.test {kind}"));
            assert!(answer.contains("status=0 answers=0"), "{kind}: {answer}");
        }
        assert!(ask(pixel, "own.test 1").contains("answers=1"));
        assert!(ask(pixel, "own.test 28").contains("status=0 answers=0"));
    }
    assert!(wan.saw("own\u{4}test\0\0\u{1}"));
    assert!(
        !wan.saw("own\u{4}test\0\0\u{1c}"),
        "an AAAA query was forwarded"
    );

    // Answers that are too long for UDP without EDNS.
    wan.name("long.test", &Vec::from_iter(0..60));
    env.pixels(["network", "allow", &pixel, "long.test"]).ok();
    walls.comes_to_reach(&pixel, "own.test", 80);
    for pixel in [&pixel, &other] {
        let count = "getent ahostsv4 long.test | cut -d' ' -f1 | sort -u | wc -l";
        assert_eq!(walls.sh(pixel, count).ok().stdout.trim(), "60");
    }
    let first = "systemctl restart systemd-resolved; getent ahostsv4 long.test | wc -l";
    assert_ne!(walls.sh(&other, first).ok().stdout.trim(), "0");

    // An unrestricted pixel learns nothing about the host, other instances or
    // the name servers.
    for name in ["version.bind 16 3", "id.server 16 3", "misses.bind 16 3"] {
        let answer = ask(&other, name);
        assert!(answer.contains("answers=0"), "{name}: {answer}");
    }
    for name in ["px-other.incus", "pxthostq", "5.0.98.10.in-addr.arpa 12"] {
        let answer = ask(&other, name);
        assert!(answer.contains("status=3 answers=0"), "{name}: {answer}");
    }
    for text in ["bind", "server", "incus", "pxthostq", "in-addr"] {
        assert!(!wan.saw(text), "a query for {text} was forwarded");
    }
    // Messages in which dnsmasq finds no name.
    wan.name("px-other.incus", &[10]);
    for header in [
        "0900 0001 0000 0000 0000",
        "2900 0001 0000 0000 0000",
        "0100 0001 0001 0000 0000",
        "0100 0001 0000 0001 0000",
        "0100 0002 0000 0000 0000",
    ] {
        let header = header.replace(' ', "");
        for way in ["udp", "tcp"] {
            let answer = ask(&other, &format!("px-other.incus 1 1 {way} {header}"));
            assert!(!answer.contains("answers=1"), "{header} {way}: {answer}");
        }
    }
    assert!(!wan.saw("incus"), "a query for incus was forwarded");
    // No rule would allow these names.
    let log = env.pixels(["network", "log", &other, "--json"]).ok().json();
    let rows = log.as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["destination"] == "px-other.incus");
    assert_eq!(row.unwrap()["admit"], serde_json::Value::Null);

    // Tunnels in which IPv6 would pass.
    let send = |protocol: u8| {
        let host = wan.address(20);
        format!(
            "perl -MSocket -e 'socket(S,2,3,{protocol}); \
             send S, qq(pxtproto{protocol}q), 0, pack_sockaddr_in(0, inet_aton(qq({host})))'"
        )
    };
    for protocol in [41, 47, 4, 50] {
        walls.sh(&other, &send(protocol)).ok();
    }
    eventually("ESP arrives", || wan.saw("pxtproto50q"));
    for protocol in [41, 47, 4] {
        let label = format!("pxtproto{protocol}q");
        assert!(!wan.saw(&label), "protocol {protocol} passed");
    }
}

/// Seconds until a learned address expires.
fn expires(walls: &Walls, address: &str) -> Option<u32> {
    let script = "nft -j list sets table inet pixels";
    let listed: serde_json::Value = serde_json::from_str(&gateway_sh(walls, script)).unwrap();
    let items = listed["nftables"].as_array().unwrap().iter();
    let mut elements = items.flat_map(|item| {
        let elements = item["set"]["elem"].as_array();
        elements.into_iter().flatten()
    });
    elements.find_map(|element| {
        let element = &element["elem"];
        let seconds = u32::try_from(element["expires"].as_u64()?).unwrap();
        (element["val"] == address).then_some(seconds)
    })
}

#[test]
#[ignore = "needs Incus"]
fn learned_addresses_in_use_are_renewed() {
    lab::ready();
    let walls = Walls::new("lrn", Wan::any());
    walls.wan.name("asked.test", &[10]);
    walls.wan.name("used.test", &[11]);
    let pixel = walls.create("a", "allowlist", &["asked.test", "used.test"]);
    walls.comes_to_reach(&pixel, "asked.test", 80);
    walls.comes_to_reach(&pixel, "used.test", 80);
    let server = walls.gateway().address;
    let save = "sh /usr/local/lib/pixels/gateway/save_learned.sh";
    let address = |last: u8| walls.wan.address(last).to_string();

    // Sets the remaining time of both addresses, as if learned by an answer.
    let age = |seconds: u32| {
        let script = format!(
            "for set in $(nft -t list sets table inet pixels | sed -n 's/.*set \\(n_[0-9a-f]*\\) .*/\\1/p'); do \
             for address in {} {}; do nft \"delete element inet pixels $set {{ $address }}; \
             add element inet pixels $set {{ $address expires {seconds}s }}\" 2>/dev/null; done; done; true",
            address(10),
            address(11)
        );
        gateway_sh(&walls, &script);
    };
    age(600);
    gateway_sh(&walls, save);
    helper(&walls.env, &pixel, &[&format!("ask {server} asked.test")]);
    eventually("the answer renews the address", || {
        expires(&walls, &address(10)).is_some_and(|left| left > 3000)
    });
    assert!(expires(&walls, &address(11)).is_some_and(|left| left <= 600));
    // Without a query: the pixel connects to the address.
    assert!(walls.reaches(&pixel, &address(11), 80));
    assert!(expires(&walls, &address(11)).is_some_and(|left| left > 3000));

    // Time passes while the gateway is stopped.
    age(600);
    gateway_sh(&walls, save);
    let file = "/var/lib/pixels/gateway/learned";
    let shift = format!(
        "systemctl stop pixels-learned.timer pixels-learned.service; \
         awk '{{ print $1, $2, $3 - ($2 == \"{}\" ? 700 : 500) }}' {file} >{file}.new && mv {file}.new {file}; \
         rm /run/pixels/loaded/whole; \
         sh /usr/local/lib/pixels/gateway/load.sh /var/lib/pixels/gateway/state",
        address(10)
    );
    gateway_sh(&walls, &shift);
    assert_eq!(expires(&walls, &address(10)), None);
    assert!(expires(&walls, &address(11)).is_some_and(|left| left <= 100));
}
