//! Addresses of the host that the gateway does not know, and connections into
//! pixels from neighbors of the gateway. The host's filter must stop both.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::lab;
use crate::support::wait::eventually;
use crate::support::walls::Walls;
use crate::support::wan::{Wan, ip};

const PROBE: &str = include_str!("../../src/lifecycle/guest/probe.pl");
const NEIGHBOR: &str = "px-t-neighbor";
/// The last byte of the neighbor's address, which the bridge's DHCP does not assign
/// first.
const NEIGHBOR_BYTE: u8 = 251;

type Seen = Arc<Mutex<String>>;

fn saw(seen: &Seen, token: &str) -> bool {
    seen.lock().unwrap().contains(token)
}

/// Addresses of the host on interfaces that exist only during a test, with
/// servers that record what they receive and answer.
struct HostAddresses {
    port: u16,
    seen: Seen,
}

impl HostAddresses {
    /// On loopback, on one end of a cable and on a tunnel.
    const ALL: [(&str, Ipv4Addr); 3] = [
        ("lo", Ipv4Addr::new(203, 0, 113, 121)),
        ("px-t-cable", Ipv4Addr::new(203, 0, 113, 122)),
        ("px-t-tunnel", Ipv4Addr::new(203, 0, 113, 123)),
    ];

    fn add() -> Self {
        Self::remove();
        ip("link add px-t-cable type veth peer name px-t-cable-end");
        ip("link add px-t-tunnel type vxlan id 4711 local 127.0.0.1 dstport 4789");
        let seen = Seen::default();
        let mut port = 0;
        for (interface, address) in Self::ALL {
            ip(&format!("addr add {address}/32 dev {interface}"));
            ip(&format!("link set {interface} up"));
            let listener = TcpListener::bind((address, port)).unwrap();
            port = listener.local_addr().unwrap().port();
            answer_connections(listener, seen.clone());
            answer_datagrams(UdpSocket::bind((address, port)).unwrap(), seen.clone());
        }
        Self { port, seen }
    }

    fn remove() {
        let delete = |args: &str| Command::new("ip").args(args.split(' ')).output();
        let [(lo, address), (cable, _), (tunnel, _)] = Self::ALL;
        let _ = delete(&format!("addr del {address}/32 dev {lo}"));
        let _ = delete(&format!("link del {cable}"));
        let _ = delete(&format!("link del {tunnel}"));
    }

    /// Rows for the probe: TCP, UDP and ping for each address.
    fn attempts(&self, addresses: &[Ipv4Addr]) -> Vec<String> {
        let port = self.port;
        let rows = addresses.iter().map(|address| {
            [
                format!("tcp {address} {port}"),
                format!("udp {address} {port}"),
                format!("icmp {address}"),
            ]
        });
        rows.flatten().collect()
    }
}

impl Drop for HostAddresses {
    fn drop(&mut self) {
        Self::remove();
    }
}

fn answer_connections(listener: TcpListener, seen: Seen) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut received = [0; 200];
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(1)));
            let length = stream.read(&mut received).unwrap_or(0);
            let text = String::from_utf8_lossy(&received[..length]).into_owned();
            *seen.lock().unwrap() += &text;
            let _ = stream.write_all(b"hello from the host\n");
        }
    });
}

fn answer_datagrams(socket: UdpSocket, seen: Seen) {
    std::thread::spawn(move || {
        let mut received = [0; 200];
        while let Ok((length, from)) = socket.recv_from(&mut received) {
            *seen.lock().unwrap() += &String::from_utf8_lossy(&received[..length]);
            let _ = socket.send_to(b"hello from the host\n", from);
        }
    });
}

fn token(tag: &str, number: usize) -> String {
    let process = std::process::id() % 10_000;
    format!("px{tag}{process:04}x{number:03}q")
}

/// The probe's script with one attempt per row, and the token of each attempt.
/// `tag`: a letter.
fn script(tag: &str, rows: &[String]) -> (String, Vec<String>) {
    let tokens: Vec<String> = (0..rows.len()).map(|number| token(tag, number)).collect();
    let lines = tokens.iter().zip(rows);
    let lines = lines.map(|(token, row)| format!("{token} {row}\n"));
    (PROBE.to_owned() + &lines.collect::<String>(), tokens)
}

/// Runs attempts as root in a pixel. Returns whether each succeeded: it received
/// an answer, or the host received it.
fn attempt(
    walls: &Walls,
    pixel: &str,
    tag: &str,
    host: &HostAddresses,
    rows: &[String],
) -> Vec<bool> {
    let (script, tokens) = script(tag, rows);
    let args = ["exec", "-u", "root", pixel, "--", "perl", "-"];
    let printed = walls.env.pixels_with(args, script.as_bytes()).ok().stdout;
    assert_eq!(printed.lines().count(), rows.len(), "{printed}");
    let outcomes = tokens.iter().zip(printed.lines());
    let succeeded = |token: &String, line: &str| line.contains(" got ") || saw(&host.seen, token);
    outcomes
        .map(|(token, line)| succeeded(token, line))
        .collect()
}

#[test]
#[ignore = "needs Incus"]
fn host_addresses_need_an_address_rule() {
    lab::ready();
    let walls = Walls::new("hostad", Wan::any());
    walls.wan.name("allowed.test", &[10]);
    let allow = ["allowed.test", "lo.test", "cable.test", "tunnel.test"];
    let a = walls.create("a", "allowlist", &allow);
    let c = walls.create("c", "unrestricted", &[]);
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.comes_to_reach(&c, "allowed.test", 443);

    // The gateway learns of these addresses only with the next command that
    // applies policies.
    let host = HostAddresses::add();
    let addresses = HostAddresses::ALL.map(|(_, address)| address);
    for (name, address) in allow[1..].iter().zip(addresses) {
        walls.wan.name_outside(name, address);
        let resolved = walls.sh(&a, &format!("getent ahostsv4 {name}")).ok().stdout;
        assert!(resolved.contains(&address.to_string()), "{resolved}");
    }
    let rows = host.attempts(&addresses);
    let none = vec![false; rows.len()];
    assert_eq!(attempt(&walls, &c, "c", &host, &rows), none, "{rows:?}");
    assert_eq!(attempt(&walls, &a, "a", &host, &rows), none, "{rows:?}");
    // A pixel cannot grant itself access.
    let marked = format!(
        "sh perl -MSocket -e 'socket(S,2,1,0); setsockopt(S,0,1,pack(q(i),0x0c)); alarm 2; \
         connect(S,pack_sockaddr_in({},inet_aton(q({})))) and print q(connected)'",
        host.port, addresses[0]
    );
    assert_eq!(attempt(&walls, &c, "m", &host, &[marked]), [false]);
    assert!(walls.reaches(&c, "allowed.test", 443));

    // A rule with the address opens it, and no other address.
    let rule = addresses[1].to_string();
    walls.env.pixels(["network", "allow", &a, &rule]).ok();
    let expected: Vec<bool> = rows.iter().map(|row| row.contains(&rule)).collect();
    assert_eq!(attempt(&walls, &a, "r", &host, &rows), expected, "{rows:?}");
    // That command has updated the gateway's own list, which records denials.
    assert_eq!(attempt(&walls, &c, "s", &host, &rows), none, "{rows:?}");
    let log = walls.env.pixels(["network", "log", &c]).ok().stdout;
    for address in addresses {
        assert!(log.contains(&address.to_string()), "{log}");
    }
    walls.env.pixels(["network", "deny", &a, &rule]).ok();
    assert_eq!(attempt(&walls, &a, "d", &host, &rows), none, "{rows:?}");

    // The filter survives a restart of the gateway.
    let body = json!({"action": "restart", "timeout": -1, "force": true});
    let gateway = format!("/1.0/instances/{}", walls.gateway_name());
    walls.server.done("PUT", &format!("{gateway}/state"), &body);
    walls.comes_to_reach(&c, "allowed.test", 443);
    let doctor = || walls.env.pixels(["doctor", "--json"]).json();
    let filter = |doctor: serde_json::Value| {
        let checks = doctor.as_array().unwrap().clone();
        let found = checks
            .into_iter()
            .find(|check| check["id"] == "host-filter");
        found.unwrap_or_else(|| panic!("{doctor}"))
    };
    assert_eq!(filter(doctor())["status"], "ok");

    // `doctor` reports a filter that was removed from the host.
    let tables = nft("list tables netdev");
    let subnet = walls.server.get(&gateway)["config"]["user.pixels.subnet"].clone();
    let name = format!(
        "pixels_{}",
        subnet.as_str().unwrap().replace(['.', '/'], "_")
    );
    assert!(tables.contains(&name), "{tables}");
    nft(&format!("delete table netdev {name}"));
    assert_eq!(filter(doctor())["status"], "problem");

    // The next command updates a gateway of an earlier version.
    let earlier = json!({"config": {"raw.lxc": "", "user.pixels.gateway": "earlier"}});
    walls.server.done("PATCH", &gateway, &earlier);
    assert_eq!(filter(doctor())["status"], "warning");
    let updated = walls.env.pixels(["start", "-v", &a]).ok().stderr;
    assert!(updated.contains("updating the gateway"), "{updated}");
    assert_eq!(filter(doctor())["status"], "ok");
    walls.comes_to_reach(&c, "allowed.test", 443);

    // Nothing remains on the host after the gateway.
    walls.env.pixels(["destroy", "--force", &a, &c]).ok();
    walls.env.pixels(["network", "gateway", "remove"]).ok();
    assert!(!nft("list tables").contains(&name));
}

/// The name of the host's tables for the gateway.
fn table(walls: &Walls) -> String {
    let path = format!("/1.0/instances/{}", walls.gateway_name());
    let subnet = walls.server.get(&path)["config"]["user.pixels.subnet"].clone();
    format!(
        "pixels_{}",
        subnet.as_str().unwrap().replace(['.', '/'], "_")
    )
}

fn nft(command: &str) -> String {
    let output = Command::new("nft").arg(command).output().unwrap();
    assert!(output.status.success(), "nft {command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A machine on the network of the gateway's uplink.
struct Neighbor;

impl Neighbor {
    fn add(address: Ipv4Addr, prefix: &str, router: Ipv4Addr) -> Self {
        Self::remove();
        ip(&format!("netns add {NEIGHBOR}"));
        ip(&format!(
            "link add {NEIGHBOR} type veth peer name eth0 netns {NEIGHBOR}"
        ));
        ip(&format!("link set dev {NEIGHBOR} master incusbr0 up"));
        ip(&format!(
            "-n {NEIGHBOR} addr add {address}/{prefix} dev eth0"
        ));
        ip(&format!("-n {NEIGHBOR} link set dev eth0 up"));
        ip(&format!("-n {NEIGHBOR} route add default via {router}"));
        Self
    }

    fn remove() {
        for args in [["netns", "del", NEIGHBOR], ["link", "del", NEIGHBOR]] {
            let _ = Command::new("ip").args(args).output();
        }
    }

    /// Runs a script of the probe and returns its output.
    fn run(&self, script: &str) -> String {
        let args = ["netns", "exec", NEIGHBOR, "perl", "-"];
        let pipe = Stdio::piped;
        let spawned = Command::new("ip")
            .args(args)
            .stdin(pipe())
            .stdout(pipe())
            .spawn();
        let mut child = spawned.unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }
}

impl Drop for Neighbor {
    fn drop(&mut self) {
        Self::remove();
    }
}

/// Records the tokens of all frames that arrive at a pixel.
fn watch(walls: &Walls, pixel: &str) -> (Child, Seen) {
    let mut child = walls
        .env
        .spawn(["exec", "-u", "root", pixel, "--", "perl", "-", "witness"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(PROBE.as_bytes()).unwrap();
    drop(stdin);
    let (seen, stdout) = (Seen::default(), child.stdout.take().unwrap());
    let theirs = seen.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            *theirs.lock().unwrap() += &(line + "\n");
        }
    });
    eventually("the witness is ready", || saw(&seen, "witness ready"));
    (child, seen)
}

#[test]
#[ignore = "needs Incus"]
fn only_the_host_connects_into_pixels() {
    lab::ready();
    let walls = Walls::new("hostin", Wan::any());
    walls.wan.name("allowed.test", &[10]);
    let a = walls.create("a", "allowlist", &["allowed.test"]);
    walls.comes_to_reach(&a, "allowed.test", 443);
    let place = walls.place(&a).address;
    let serve = "use Socket; socket(S,2,1,0); bind(S,pack_sockaddr_in(8000,INADDR_ANY)); listen(S,5); \
                 while(accept(C,S)){syswrite C,qq(from inside\\n); close C}";
    let mut server = walls.env.spawn(["exec", &a, "--", "perl", "-e", serve]);
    let (mut witness, seen) = watch(&walls, &a);

    let network = walls.server.get("/1.0/networks/incusbr0");
    let network = network["config"]["ipv4.address"].as_str().unwrap();
    let (router, prefix) = network.split_once('/').unwrap();
    let router: Ipv4Addr = router.parse().unwrap();
    let [first, second, third, _] = router.octets();
    let address = Ipv4Addr::new(first, second, third, NEIGHBOR_BYTE);
    let gateway = format!("/1.0/instances/{}", walls.gateway_name());
    let uplink_mac = walls.server.get(&gateway)["config"]["volatile.eth0.hwaddr"].clone();
    let uplink_mac = uplink_mac.as_str().unwrap();
    let state = walls.server.get(&format!("{gateway}/state"));
    let uplink = state["network"]["eth0"]["addresses"][0]["address"].clone();
    let uplink = uplink.as_str().unwrap();
    let bridge_mac = std::fs::read_to_string("/sys/class/net/incusbr0/address").unwrap();
    let bridge_mac = bridge_mac.trim();
    let neighbor = Neighbor::add(address, prefix, router);

    let spoofed = [
        // The host forwards these, with its own address as the sender.
        format!("tcp {place} 8000"),
        format!("udp {place} 8000"),
        format!("icmp {place}"),
        // Directly to the gateway, with the host's address as the sender.
        format!("spoof {uplink_mac} {bridge_mac} {router} {place} 8000"),
        format!("spoof {uplink_mac} 02:00:00:00:00:51 {router} {place} 8000"),
        format!("tagged {uplink_mac} 02:00:00:00:00:51 {router} {place} 0"),
    ];
    // With other addresses, which the host may translate while it bridges.
    let others = [
        format!("spoof ff:ff:ff:ff:ff:ff 02:00:00:00:00:51 {router} {place} 8000"),
        format!("spoof {uplink_mac} 02:00:00:00:00:51 {address} {place} 8000"),
        format!(
            "sh ip route add {place} via {uplink}; timeout 2 bash -c \
             'head -n 1 </dev/tcp/{place}/8000'; code=$?; ip route del {place}; exit $code"
        ),
        format!("icmp {uplink}"),
    ];
    let rows = [&spoofed[..], &others].concat();
    let host: SocketAddr = format!("{place}:8000").parse().unwrap();
    let arrived = |tag: &str| {
        let (script, tokens) = script(tag, &rows);
        let printed = neighbor.run(&script);
        assert_eq!(printed.lines().count(), rows.len(), "{printed}");
        // A later packet of the host arrives.
        let last = token(tag, rows.len());
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.send_to(last.as_bytes(), host).unwrap();
        eventually("the host's packet arrives", || saw(&seen, &last));
        let outcomes = tokens.iter().zip(printed.lines()).zip(&rows);
        outcomes
            .filter(|((token, line), _)| line.contains(" got ") || saw(&seen, token))
            .map(|(_, row)| row.clone())
            .collect::<Vec<String>>()
    };
    assert_eq!(arrived("n"), Vec::<String>::new());

    // The host can also open connections, and so can the pixel.
    eventually("the host connects", || {
        let Ok(mut stream) = std::net::TcpStream::connect(host) else {
            return false;
        };
        let mut text = String::new();
        stream.read_to_string(&mut text).is_ok() && text == "from inside\n"
    });
    assert!(walls.reaches(&a, "allowed.test", 443));

    let name = table(&walls);
    nft(&format!("delete table inet {name}"));
    nft(&format!("delete table bridge {name}"));
    // Without the filter, these attempts succeed.
    let arrived = arrived("o");
    for row in spoofed {
        assert!(arrived.contains(&row), "{row} never arrives: {arrived:?}");
    }
    for child in [&mut server, &mut witness] {
        let _ = child.kill();
        let _ = child.wait();
    }
}
