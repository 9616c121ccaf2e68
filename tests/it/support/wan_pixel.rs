//! A simulated internet for pixels that enforce their egress policies
//! themselves: a network namespace connected to the host, with TCP servers, a
//! name server, and a packet counter per address.
//!
//! The namespace exists until the thread that serves it exits.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use rustix::fs::{FlockOperation, flock};

use super::dns;
use super::env::TestEnv;
use super::wan::{enter, ip};

/// Names that the name server resolves, with the number of each address.
pub const NAMES: [(&str, u8); 4] = [
    ("allowed.test", 10),
    ("other.test", 11),
    ("api.openai.com", 11),
    ("denied.test", 20),
];
const RESOLVER: u8 = 53;
const TTL_SECONDS: u32 = 5;
const ADDRESSES: [u8; 5] = [10, 11, 20, 30, RESOLVER];
const PORTS: [u16; 5] = [22, 53, 80, 443, 853];

const COUNTING: &str = "\
table inet account {
    set seen { type ipv4_addr; flags dynamic; size 4096; counter; }
    chain arrives {
        type filter hook prerouting priority raw;
        iifname \"wan0\" update @seen { ip daddr }
    }
}";

/// First numbers of the networks in 203.0.113.0/24, which is reserved for
/// documentation (RFC 5737). Each test process uses another network.
const NETWORKS: [u8; 3] = [0, 128, 192];

pub struct Wan {
    network: u8,
    /// Lock on the network, released when the process exits.
    _turn: File,
    /// Path of the network namespace, for `nsenter`.
    place: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Wan {
    /// The network that all tests of this process share.
    pub fn up() -> &'static Self {
        static WAN: OnceLock<Wan> = OnceLock::new();
        WAN.get_or_init(Self::make)
    }

    fn make() -> Self {
        let pid = std::process::id();
        let (network, turn) = lock_network();
        let name = format!("pxw{network}");
        // The kernel may still have the link of a process that has exited.
        for kind in ["netns", "link"] {
            let _ = Command::new("ip").args([kind, "del", &name]).output();
        }
        let asked = Arc::new(Mutex::new(Vec::new()));
        ip(&format!("netns add {name}"));
        let namespace = File::open(format!("/run/netns/{name}")).unwrap();
        ip(&format!(
            "link add {name} type veth peer name wan0 netns {name}"
        ));
        ip(&format!("addr add {}/26 dev {name}", address(network, 1)));
        ip(&format!("link set {name} up"));
        let (ready, reported) = mpsc::channel();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            enter(&namespace);
            ip("link set lo up");
            ip("link set wan0 up");
            for host in ADDRESSES {
                ip(&format!("addr add {}/26 dev wan0", address(network, host)));
            }
            ip(&format!("route add default via {}", address(network, 1)));
            run(&["nft", COUNTING]);
            for port in PORTS {
                let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        std::thread::spawn(move || greet(stream));
                    }
                });
            }
            let socket = UdpSocket::bind((address(network, RESOLVER), 53)).unwrap();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            ready
                .send(format!("/proc/{pid}/task/{tid}/ns/net"))
                .unwrap();
            answer(&socket, network, &heard);
        });
        let place = reported.recv().unwrap();
        ip(&format!("netns del {name}"));
        Self {
            network,
            _turn: turn,
            place,
            asked,
        }
    }

    /// The address with this number.
    pub fn address(&self, host: u8) -> String {
        address(self.network, host).to_string()
    }

    pub fn resolver(&self) -> String {
        self.address(RESOLVER)
    }

    /// Number of packets received for this address, of any protocol.
    pub fn packets_to(&self, host: u8) -> u64 {
        let place = format!("--net={}", self.place);
        let listing = run(&["nsenter", &place, "nft", "list set inet account seen"]);
        let words: Vec<&str> = listing.split_whitespace().collect();
        let address = self.address(host);
        words
            .windows(4)
            .find(|w| w[0].trim_start_matches('{') == address && w[1..3] == ["counter", "packets"])
            .map_or(0, |w| w[3].parse().unwrap())
    }

    /// Asserts that a pixel rejects a connection to a denied address. The log
    /// must list this connection and an earlier lookup of `denied.test`, each
    /// with the command that allows the entry.
    #[track_caller]
    pub fn refuses_and_logs(&self, env: &TestEnv, pixel: &str) {
        let denied = self.address(30);
        let connect = format!("echo </dev/tcp/{denied}/443");
        let refused = env.pixels(["exec", pixel, "--", "bash", "-c", &connect]);
        assert!(refused.stderr.contains("No route to host"), "{refused:?}");
        assert_eq!(self.packets_to(30), 0);

        let network = |verb: &str, more: &str| env.pixels(["network", verb, pixel, more]);
        let log = network("log", "--json").ok().json();
        for entry in ["denied.test".to_owned(), format!("{denied}:443")] {
            let line = log.as_array().unwrap().iter().find(|l| l["entry"] == entry);
            let line = line.unwrap_or_else(|| panic!("no {entry} in {log}"));
            let allow = format!("pixels network allow {pixel} {entry}");
            assert_eq!(line["admit"], allow);
        }
        let check = env.pixels(["network", "check", pixel, "denied.test", "--json"]);
        let check = check.expect(1).json();
        assert_eq!(check["allowed"], false);
        assert_eq!(check["enforced_by"], "pixel");
        network("check", "allowed.test:80").ok();
    }

    /// All names that the name server was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Sends a greeting, then echoes every line.
fn greet(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::from("hello\n");
    while stream.write_all(line.as_bytes()).is_ok() {
        line.clear();
        match lines.read_line(&mut line) {
            Ok(1..) => {}
            _ => return,
        }
    }
}

fn address(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, network + host)
}

/// Locks a free network, or waits for the first.
fn lock_network() -> (u8, File) {
    let open = |network: u8| {
        let name = format!("pixels-test-pixel-wan{network}.lock");
        File::create(std::env::temp_dir().join(name)).unwrap()
    };
    for network in NETWORKS {
        let turn = open(network);
        if flock(&turn, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return (network, turn);
        }
    }
    let turn = open(NETWORKS[0]);
    flock(&turn, FlockOperation::LockExclusive).unwrap();
    (NETWORKS[0], turn)
}

fn answer(socket: &UdpSocket, network: u8, asked: &Mutex<Vec<String>>) {
    let mut packet = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let query = &packet[..length];
        let Some(name) = dns::question(query) else {
            continue;
        };
        let host = NAMES.iter().find(|(known, _)| *known == name);
        let address = host.map(|(_, host)| address(network, *host));
        asked.lock().unwrap().push(name);
        let addresses = address.as_ref().map(std::slice::from_ref);
        let _ = socket.send_to(&dns::answer(query, addresses, TTL_SECONDS), from);
    }
}

#[track_caller]
fn run(argv: &[&str]) -> String {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "{argv:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
