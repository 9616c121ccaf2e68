//! A small internet of the tests' own, for pixels that enforce their policies
//! themselves: a network namespace behind the host, with servers that answer,
//! a resolver that knows a few names, and an account of everything that arrives.
//!
//! The namespace lives as long as the thread that serves it, and no longer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, mpsc};

/// Names the resolver knows, each with the last number of its address.
pub const NAMES: [(&str, u8); 3] = [
    ("allowed.test", 10),
    ("other.test", 11),
    ("denied.test", 20),
];
const RESOLVER: u8 = 53;
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

pub struct Wan {
    network: String,
    /// The namespace, as a path for those who enter it.
    place: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Wan {
    /// One for all tests of this process.
    pub fn up() -> &'static Self {
        static WAN: OnceLock<Wan> = OnceLock::new();
        WAN.get_or_init(Self::make)
    }

    fn make() -> Self {
        let pid = std::process::id();
        let (name, outer) = (format!("pxw{pid}"), format!("pxw{pid}"));
        // Of the range for measurements between networks; nobody's otherwise.
        let network = format!("198.18.{}", pid % 250);
        let asked = Arc::new(Mutex::new(Vec::new()));
        run(&["ip", "netns", "add", &name]);
        let namespace = File::open(format!("/run/netns/{name}")).unwrap();
        run(&[
            "ip", "link", "add", &outer, "type", "veth", "peer", "name", "wan0", "netns", &name,
        ]);
        run(&[
            "ip",
            "addr",
            "add",
            &format!("{network}.1/24"),
            "dev",
            &outer,
        ]);
        run(&["ip", "link", "set", &outer, "up"]);
        let (ready, reported) = mpsc::channel();
        let (inner, heard) = (network.clone(), Arc::clone(&asked));
        std::thread::spawn(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            // Everything this thread starts is in there too.
            run(&["ip", "link", "set", "lo", "up"]);
            run(&["ip", "link", "set", "wan0", "up"]);
            for host in ADDRESSES {
                run(&[
                    "ip",
                    "addr",
                    "add",
                    &format!("{inner}.{host}/24"),
                    "dev",
                    "wan0",
                ]);
            }
            run(&[
                "ip",
                "route",
                "add",
                "default",
                "via",
                &format!("{inner}.1"),
            ]);
            run(&["nft", COUNTING]);
            for port in PORTS {
                let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        std::thread::spawn(move || greet(stream));
                    }
                });
            }
            let socket = UdpSocket::bind((format!("{inner}.{RESOLVER}"), 53)).unwrap();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            ready
                .send(format!("/proc/{pid}/task/{tid}/ns/net"))
                .unwrap();
            answer(&socket, &inner, &heard);
        });
        let place = reported.recv().unwrap();
        run(&["ip", "netns", "del", &name]);
        Self {
            network,
            place,
            asked,
        }
    }

    /// The address with this last number.
    pub fn address(&self, host: u8) -> String {
        format!("{}.{host}", self.network)
    }

    pub fn resolver(&self) -> String {
        self.address(RESOLVER)
    }

    /// How many packets have come for that address, of whatever kind.
    pub fn packets_to(&self, host: u8) -> u64 {
        self.account()
            .get(&self.address(host))
            .copied()
            .unwrap_or(0)
    }

    fn account(&self) -> BTreeMap<String, u64> {
        let place = format!("--net={}", self.place);
        let listing = run(&[
            "nsenter", &place, "nft", "list", "set", "inet", "account", "seen",
        ]);
        let words: Vec<&str> = listing.split_whitespace().collect();
        words
            .windows(4)
            .filter(|w| w[1] == "counter" && w[2] == "packets")
            .map(|w| {
                (
                    w[0].trim_start_matches('{').to_owned(),
                    w[3].parse().unwrap(),
                )
            })
            .collect()
    }

    /// Every name the resolver was ever asked for.
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

fn answer(socket: &UdpSocket, network: &str, asked: &Mutex<Vec<String>>) {
    let mut packet = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let query = &packet[..length];
        let Some((name, end)) = question(query) else {
            continue;
        };
        asked.lock().unwrap().push(name.clone());
        let of_a = query[end - 4..end] == [0, 1, 0, 1];
        let host = NAMES.iter().find(|(known, _)| *known == name);
        let mut reply = query[..end].to_vec();
        reply[2..4].copy_from_slice(&[0x81, if host.is_some() { 0x80 } else { 0x83 }]);
        reply[6..12].fill(0);
        if let (Some((_, host)), true) = (host, of_a) {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            let address: std::net::Ipv4Addr = format!("{network}.{host}").parse().unwrap();
            reply.extend(address.octets());
        }
        let _ = socket.send_to(&reply, from);
    }
}

/// The name a query is for, and where the question ends.
fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    query.get(at..at + 4)?;
    Some((labels.join("."), at + 4))
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
