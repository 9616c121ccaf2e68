//! Frames of root in a pixel that must reach neither another pixel nor the
//! server's host: both the victim and the attacker are watched.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::eth;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use serde_json::json;

use crate::egress_gateway_escapes::Witness;
use crate::support::lab;
use crate::support::wait::eventually;
use crate::support::walls::{Place, Walls};
use crate::support::wan::{self, Wan};

const PROBE: &str = include_str!("../../src/lifecycle/guest/probe.pl");

/// Attacks on the neighbor, each for about a second, while the neighbor receives
/// data. A row is `NAME | PROBE`, with placeholders.
const STORMS: &[&str] = &[
    "the neighbor's address | storm 150 GATEWAY_MAC NEIGHBOR_MAC 88b5",
    "the neighbor's address in ARP | storm 50 BROADCAST NEIGHBOR_MAC 0806",
    "the neighbor's address in a VLAN | storm 50 GATEWAY_MAC NEIGHBOR_MAC 8100 000088b5",
    "the neighbor's address to a reserved group | storm 50 01:80:c2:00:00:0e NEIGHBOR_MAC 88cc",
    "one frame with the gateway's address | storm 1 NEIGHBOR_MAC GATEWAY_MAC 88b5",
    "the gateway's address | storm 50 BROADCAST GATEWAY_MAC 88b5",
    "the gateway's address in a VLAN | storm 50 BROADCAST GATEWAY_MAC 88a8 000088b5",
    "the gateway's address to a reserved group | storm 50 01:80:c2:00:00:02 GATEWAY_MAC 8809",
];

/// Frames that the host must not receive, and the neighbor must not notice.
const FRAMES: &[&str] = &[
    "DNS | spoof BRIDGE_MAC OWN_MAC OWN HOST 53",
    "DHCP | spoof BRIDGE_MAC OWN_MAC OWN HOST 67",
    "DHCPv6 | spoof BRIDGE_MAC OWN_MAC OWN HOST 547",
    "another port | spoof BRIDGE_MAC OWN_MAC OWN HOST 4433",
    "an ICMP echo request | ip BRIDGE_MAC OWN_MAC OWN HOST 1 0800000000070001",
    "ICMP unreachable | ip BRIDGE_MAC OWN_MAC OWN HOST 1 0303000000000000",
    "ICMP time exceeded | ip BRIDGE_MAC OWN_MAC OWN HOST 1 0b00000000000000",
    "an ICMP parameter problem | ip BRIDGE_MAC OWN_MAC OWN HOST 1 0c00000000000000",
    "a reserved group | spoof 01:80:c2:00:00:0e OWN_MAC OWN HOST 4433",
    "another reserved group | spoof 01:80:c2:00:00:02 OWN_MAC OWN HOST 4433",
    "spanning tree | spoof 01:80:c2:00:00:00 OWN_MAC OWN HOST 4433",
    "multicast | spoof 01:00:5e:00:00:01 OWN_MAC OWN 224.0.0.1 4433",
    "broadcast | spoof BROADCAST OWN_MAC OWN 255.255.255.255 67",
    "VLAN 0 | tagged BRIDGE_MAC OWN_MAC OWN HOST 0",
    "VLAN 1 | tagged BRIDGE_MAC OWN_MAC OWN HOST 1",
    "802.1ad | frame BRIDGE_MAC OWN_MAC 88a8 00000800",
    "stacked VLANs | frame BRIDGE_MAC OWN_MAC 8100 0000810000000800",
    "another protocol | frame BRIDGE_MAC OWN_MAC 88b5",
    "an ARP request | arp BROADCAST OWN_MAC 1 OWN_MAC OWN 00:00:00:00:00:00 HOST",
    "an ARP request of another | arp BROADCAST OWN_MAC 1 OWN_MAC 10.9.9.9 00:00:00:00:00:00 HOST",
    "an ARP request to a reserved group | arp 01:80:c2:00:00:0e OWN_MAC 1 OWN_MAC OWN 00:00:00:00:00:00 HOST",
    "another reserved group, ARP | arp 01:80:c2:00:00:02 OWN_MAC 1 OWN_MAC OWN 00:00:00:00:00:00 HOST",
    "an ARP request in VLAN 0 | frame BROADCAST OWN_MAC 8100 00000806",
    "an ARP reply | arp BRIDGE_MAC OWN_MAC 2 OWN_MAC OWN BRIDGE_MAC HOST",
    "a broadcast to the neighbor | spoof BROADCAST OWN_MAC OWN NEIGHBOR 4433",
];

struct Attack<'a> {
    walls: &'a Walls,
    own: Place,
    neighbor: Place,
    gateway: Place,
    bridge_mac: String,
}

impl Attack<'_> {
    fn fill(&self, row: &str) -> String {
        let host = self.walls.wan.address(wan::HOST).to_string();
        let words = [
            ("OWN_MAC", self.own.mac.as_str()),
            ("OWN", &self.own.address),
            ("NEIGHBOR_MAC", &self.neighbor.mac),
            ("NEIGHBOR", &self.neighbor.address),
            ("GATEWAY_MAC", &self.gateway.mac),
            ("BRIDGE_MAC", &self.bridge_mac),
            ("HOST", &host),
            ("BROADCAST", "ff:ff:ff:ff:ff:ff"),
        ];
        let replace = |row: String, (word, value): &(&str, &str)| row.replace(word, value);
        words.iter().fold(row.to_owned(), replace)
    }

    /// Starts the rows in a pixel. Each row is a line of the probe's output.
    fn start(&self, pixel: &str, rows: &[String]) -> Child {
        let variable = format!("GATEWAY={}", self.gateway.address);
        let args = ["exec", "-u", "root", "-e", &variable, pixel, "--"];
        let perl = ["perl", "-"];
        let mut child = self.walls.env.spawn(args.into_iter().chain(perl));
        let lines = rows.iter().enumerate().map(|(number, row)| {
            let row = self.fill(row);
            format!("{} {row}\n", token(number))
        });
        let script = PROBE.to_owned() + &lines.collect::<String>();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        child
    }

    /// Runs the rows in a pixel. Returns the results that are not empty.
    fn run(&self, pixel: &str, rows: &[String]) -> Vec<String> {
        results(self.start(pixel, rows), rows)
    }

    /// Fixed entries of the bridge's forwarding database.
    fn addresses(&self) -> BTreeSet<String> {
        let bridge = self.walls.wan.bridge();
        let args = ["fdb", "show", "br", &bridge];
        let shown = Command::new("bridge").args(args).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let entries = shown.lines().filter(|line| line.contains(" master "));
        entries.map(str::to_owned).collect()
    }
}

fn token(number: usize) -> String {
    format!("pxt{:04}x{number:03}q", std::process::id() % 10_000)
}

fn results(child: Child, rows: &[String]) -> Vec<String> {
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), rows.len(), "{printed}");
    let got = printed.lines().zip(rows).filter_map(|(line, row)| {
        let (_, result) = line.split_once(" got ")?;
        Some(format!("{row}: {result}"))
    });
    got.collect()
}

fn probes(rows: &[&str]) -> Vec<String> {
    let probe = |row: &&str| row.split_once(" | ").unwrap().1.to_owned();
    rows.iter().map(probe).collect()
}

/// Frames that the host's protocols receive, on all interfaces.
pub struct HostStack {
    seen: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
}

impl HostStack {
    pub fn watch() -> Self {
        let host = Self {
            seen: Arc::default(),
            over: Arc::default(),
        };
        // Frames with a length (LLC), EtherTypes for local use, EAPOL and LLDP.
        let others = [0x0004_u16, 0x88b5, 0x888e, 0x88cc];
        let others = others.map(|kind| u32::from(kind.to_be()).try_into().unwrap());
        let others = others.map(Protocol::from_raw);
        let known = [eth::IP, eth::IPV6, eth::ARP, eth::RARP];
        for protocol in known.into_iter().chain(others) {
            let close = SocketFlags::CLOEXEC;
            let (family, kind) = (AddressFamily::PACKET, SocketType::RAW);
            let socket = socket_with(family, kind, close, Some(protocol)).unwrap();
            let timeout = Some(Duration::from_millis(200));
            set_socket_timeout(&socket, Timeout::Recv, timeout).unwrap();
            let (seen, over) = (host.seen.clone(), host.over.clone());
            thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                        seen.lock().unwrap().extend_from_slice(&buffer[..length]);
                    }
                }
            });
        }
        host
    }

    pub fn saw(&self, text: &str) -> bool {
        // The search in text is compiled with optimization, even in tests.
        String::from_utf8_lossy(&self.seen.lock().unwrap()).contains(text)
    }
}

impl Drop for HostStack {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Prints the frames that a pixel receives and that are not for it only.
fn eavesdrop(walls: &Walls, pixel: &str) -> (Child, Arc<Mutex<String>>) {
    let args = ["exec", "-u", "root", pixel, "--", "perl", "-", "eavesdrop"];
    let mut child = walls.env.spawn(args);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(PROBE.as_bytes())
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let heard = Arc::new(Mutex::new(String::new()));
    let theirs = heard.clone();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            theirs.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    eventually("the pixel listens", || !heard.lock().unwrap().is_empty());
    heard.lock().unwrap().clear();
    (child, heard)
}

/// Returns the fragments of the attacker that leave: joined with a fragment of the
/// neighbor, in both orders, to an address that only the neighbor may reach, and
/// with the attacker's own address, because the host does not distinguish pixels.
fn leaving_fragments(attack: &Attack<'_>, a: &str, b: &str) -> Vec<&'static str> {
    let wan = &attack.walls.wan;
    let fragment = |from: &str, last: u8, part: &str| {
        format!("fragment GATEWAY_MAC {from} {} {part}", wan.address(last))
    };
    let head = [fragment("NEIGHBOR_MAC NEIGHBOR", 20, "head")];
    let tail = [fragment("OWN_MAC NEIGHBOR", 20, "tail")];
    wan.forget();
    attack.run(b, &head);
    attack.run(a, &tail);
    let after = wan
        .saw(&token(0))
        .then_some("a tail after the neighbor's head");
    wan.forget();
    attack.run(a, &tail);
    attack.run(b, &head);
    let before = wan
        .saw(&token(0))
        .then_some("a tail before the neighbor's head");
    let own = ["head", "tail"].map(|part| fragment("OWN_MAC OWN", 10, part));
    attack.run(a, &own);
    let alone = wan.saw(&token(1)).then_some("a pixel's own fragments");
    [after, before, alone].into_iter().flatten().collect()
}

/// Echoes datagrams at these ports of the host.
fn answer_datagrams(ports: &[u16]) {
    for port in ports {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
}

#[test]
#[ignore = "needs Incus"]
fn root_in_pixel_reaches_no_neighbor_or_host_by_frames() {
    lab::ready();
    let walls = Walls::new("frames", Wan::any());
    walls.wan.name("allowed.test", &[10]);
    walls.wan.name("other.test", &[20]);
    let a = walls.create("a", "allowlist", &["allowed.test"]);
    let b = walls.create("b", "allowlist", &["other.test"]);
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.comes_to_reach(&b, "other.test", 80);
    let path = format!("/sys/class/net/{}/address", walls.wan.bridge());
    let attack = Attack {
        own: walls.place(&a),
        neighbor: walls.place(&b),
        gateway: walls.gateway(),
        bridge_mac: std::fs::read_to_string(path).unwrap().trim().to_owned(),
        walls: &walls,
    };
    let before = attack.addresses();
    let (mut listener, heard) = eavesdrop(&walls, &b);

    // 400 datagrams take at least as long as all storms.
    let echoes = [format!("echoes {} 4433 400", walls.wan.address(20))];
    let victim = attack.start(&b, &echoes);
    let overheard = attack.run(&a, &probes(STORMS));
    let lost = results(victim, &echoes);

    let host = HostStack::watch();
    let attacker = Witness::at(&walls.env, &a);
    answer_datagrams(&[547, 4433]);
    let printed = attack.run(&a, &probes(FRAMES));
    assert_eq!(printed, [""; 0]);
    let answered = FRAMES.iter().enumerate();
    let answered = answered.filter(|(number, _)| attacker.saw(&token(*number)));
    let answered: Vec<&str> = answered.map(|(_, row)| *row).collect();
    let received = FRAMES.iter().enumerate();
    let received = received.filter(|(number, _)| host.saw(&token(*number)));
    let received: Vec<&str> = received.map(|(_, row)| *row).collect();
    let args = ["neigh", "show", "dev", &walls.wan.bridge()];
    let entries = Command::new("ip").args(args).output().unwrap();
    let entries = String::from_utf8(entries.stdout).unwrap();

    // The DHCP answer to this pixel is a broadcast.
    let lease = attack.run(&a, &["dhcp OWN_MAC 1 OWN_MAC".to_owned()]);
    assert!(lease[0].contains("offered"), "{lease:?}");
    let fragments = leaving_fragments(&attack, &a, &b);

    let moved = attack.addresses() != before;
    let heard = heard.lock().unwrap().clone();
    let found = (
        overheard, lost, answered, received, entries, fragments, moved, heard,
    );
    let none = <(Vec<_>, Vec<_>, Vec<_>, Vec<_>, String, Vec<_>, bool, String)>::default();
    assert_eq!(found, none);
    listener.kill().unwrap();
    listener.wait().unwrap();
    walls.comes_to_reach(&a, "allowed.test", 443);
    replaced_device_harms_no_neighbor_or_host(&attack, &a, &b);
    ports_are_secured_at_next_start(&walls, &a);
    unsecurable_pixel_does_not_start(&walls, &b);
}

/// The port of a network device that is replaced in a running pixel is unsecured until
/// the next start.
fn replaced_device_harms_no_neighbor_or_host(attack: &Attack<'_>, a: &str, b: &str) {
    let walls = attack.walls;
    let path = format!("/1.0/instances/px-{a}");
    let mut device = walls.server.get(&path)["devices"]["eth0"].clone();
    device["host_name"] = format!("pxnew{}", std::process::id()).into();
    let devices = json!({"devices": {"eth0": device}});
    let doctor = || walls.env.pixels(["doctor", "--json"]).stdout;
    let report = format!("px-{a}: ");
    assert!(!doctor().contains(&report), "{}", doctor());
    walls.server.done("PATCH", &path, &devices);
    assert!(doctor().contains(&report), "{}", doctor());
    walls.comes_to_reach(a, "allowed.test", 443);

    let others = || -> BTreeSet<String> {
        let entries = attack.addresses().into_iter();
        let of_others = [&attack.neighbor.mac, &attack.gateway.mac];
        entries
            .filter(|entry| of_others.iter().any(|mac| entry.contains(*mac)))
            .collect()
    };
    let before = others();
    let (mut listener, heard) = eavesdrop(walls, b);
    let echoes = [format!("echoes {} 4433 400", walls.wan.address(20))];
    let victim = attack.start(b, &echoes);
    let overheard = attack.run(a, &probes(STORMS));
    let lost = results(victim, &echoes);
    let host = HostStack::watch();
    let attacker = Witness::at(&walls.env, a);
    // Answers to the frames arrive before those to the datagrams after them.
    let mut rows = probes(FRAMES);
    rows.push(format!("echoes {} 4433 20", walls.wan.address(10)));
    assert_eq!(attack.run(a, &rows), [""; 0]);
    let reached = FRAMES.iter().enumerate();
    let reached = reached.filter(|(number, row)| {
        let token = token(*number);
        // The host's IP protocol drops frames to reserved groups.
        attacker.saw(&token) || (host.saw(&token) && !row.contains("reserved group"))
    });
    let reached: Vec<&str> = reached.map(|(_, row)| *row).collect();
    // The host's entry for a sender of ARP requests.
    let entries = Command::new("ip").args(["neigh", "show"]).output().unwrap();
    let entries = String::from_utf8(entries.stdout).unwrap();
    let mut entries: Vec<&str> = entries.lines().collect();
    entries.retain(|entry| entry.contains(&attack.own.mac));
    let heard = heard.lock().unwrap().clone();
    let found = (overheard, lost, reached, entries, others() != before, heard);
    let none = <(Vec<_>, Vec<_>, Vec<_>, Vec<_>, bool, String)>::default();
    assert_eq!(found, none);
    listener.kill().unwrap();
    listener.wait().unwrap();
    walls.env.pixels(["stop", "--force", a]).ok();
    walls.env.pixels(["start", a]).ok();
}

/// The next start secures the ports of pixels, checkpoints and gateways of earlier
/// versions.
fn ports_are_secured_at_next_start(walls: &Walls, a: &str) {
    let (env, server) = (&walls.env, &walls.server);
    let remove_security = |instance: &str| {
        let path = format!("/1.0/instances/{instance}");
        let raw = server.get(&path)["config"]["raw.lxc"]
            .as_str()
            .unwrap()
            .to_owned();
        let init = raw.lines().next().unwrap();
        assert!(init.starts_with("lxc.init.cmd"), "{raw}");
        let earlier = json!({"config": {"raw.lxc": init, "security.syscalls.deny": ""}});
        server.done("PATCH", &path, &earlier);
    };
    let change = |instance: &str, action: &str| {
        let path = format!("/1.0/instances/{instance}/state");
        let body = json!({"action": action, "force": true, "timeout": -1});
        server.done("PUT", &path, &body);
    };
    let reported = |name: &str| {
        let checks = env.pixels(["doctor", "--json"]).json();
        let mut checks = checks.as_array().unwrap().iter();
        let ports = checks.find(|check| check["id"] == "ports").unwrap();
        ports["detail"]
            .as_str()
            .unwrap()
            .contains(&format!("{name}:"))
    };
    let (pixel, gateway) = (format!("px-{a}"), walls.gateway_name());
    assert!(!reported(&pixel) && !reported(&gateway));

    remove_security(&pixel);
    env.checkpoint(a, "old");
    change(&pixel, "restart");
    assert!(reported(&pixel));
    change(&pixel, "stop");
    env.pixels(["start", a]).ok();
    assert!(!reported(&pixel));
    let config = &server.get(&format!("/1.0/instances/{pixel}"))["config"];
    let denied = config["security.syscalls.deny"].as_str().unwrap();
    assert!(denied.contains("socket errno 97 [0,40"), "{denied}");
    faults_of_running_port_are_reported(walls, a, &reported);
    env.pixels(["checkpoint", "restore", a, "old"]).ok();
    assert!(!reported(&pixel));

    // A gateway of an older version, with a pixel behind it.
    remove_security(&gateway);
    remove_security(&pixel);
    change(&gateway, "restart");
    let path = format!("/1.0/instances/{gateway}");
    server.done(
        "PATCH",
        &path,
        &json!({"config": {"user.pixels.gateway": "older"}}),
    );
    assert!(reported(&gateway));
    env.pixels(["start", a]).ok();
    assert!(!reported(&gateway));
    walls.comes_to_reach(a, "allowed.test", 443);
    // Without pixels too, the pixel's next start secures its port.
    change(&pixel, "restart");
    assert!(!reported(&pixel));
}

/// Removes each part of the security of a running pixel's port.
fn faults_of_running_port_are_reported(walls: &Walls, a: &str, reported: &dyn Fn(&str) -> bool) {
    let pixel = format!("px-{a}");
    for removal in [
        "bridge link set dev PORT learning on",
        "bridge fdb replace MAC dev PORT master static",
        "tc filter del dev PORT ingress",
        "tc filter del dev PORT egress",
    ] {
        let config = walls.server.get(&format!("/1.0/instances/{pixel}"))["config"].clone();
        let volatile = |key: &str| config[format!("volatile.eth0.{key}")].clone();
        let removal = removal
            .replace("PORT", volatile("host_name").as_str().unwrap())
            .replace("MAC", volatile("hwaddr").as_str().unwrap());
        let mut words = removal.split(' ');
        let mut command = Command::new(words.next().unwrap());
        assert!(command.args(words).status().unwrap().success(), "{removal}");
        assert!(reported(&pixel), "{removal}");
        walls.env.pixels(["stop", "--force", a]).ok();
        walls.env.pixels(["start", a]).ok();
        assert!(!reported(&pixel), "{removal}");
    }
}

/// The error contains the reason of the hook.
fn unsecurable_pixel_does_not_start(walls: &Walls, b: &str) {
    walls.env.pixels(["stop", b]).ok();
    let path = format!("/1.0/instances/px-{b}");
    let raw = walls.server.get(&path)["config"]["raw.lxc"]
        .as_str()
        .unwrap()
        .to_owned();
    let failing = "lxc.hook.start-host = /bin/sh -c 'echo \"pixels: the program tc is missing\" \
                   >>\"${LXC_CONSOLE_LOGPATH%/*}/lxc.log\"; exit 1'";
    let body = json!({"config": {"raw.lxc": format!("{failing}\n{raw}")}});
    walls.server.done("PATCH", &path, &body);
    let failed = walls.env.pixels(["start", b]).expect(1);
    assert!(
        failed.stderr.contains("the program tc is missing"),
        "{failed:?}"
    );
}
