//! A simulated internet for one test: a network namespace connected to the
//! host, with servers on all relevant ports, a name server with names set by
//! the test, and a recorder of all received frames.
//!
//! A machine has at most [`SLOTS`] of these networks at a time, across all test
//! processes. Each network has its own addresses.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::dns;

pub const SLOTS: u8 = 7;
/// Slot whose network also receives the host's traffic to [`METADATA`].
pub const FIRST: u8 = 0;
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Number of the host's address in each network.
pub const HOST: u8 = 62;
const RESOLVER: u8 = 53;
/// Number of an address without servers, except servers started by a test.
pub const SPARE: u8 = 30;
/// TTL of all DNS records. Resolvers should limit this TTL.
const TTL_SECONDS: u32 = 3600;
/// Numbers of the addresses on which all servers answer.
const ADDRESSES: [u8; 9] = [1, 10, 11, 12, 20, 21, 22, 53, 60];
/// TCP ports of the servers. Port 53 belongs to the name server.
const TCP: [u16; 7] = [22, 80, 443, 853, 8080, 9418, 65000];
const UDP: [u16; 5] = [68, 123, 443, 4433, 65000];

/// The address with number `host`, below 63, in the network of a slot. The
/// networks are parts of two that are reserved for documentation (RFC 5737).
pub const fn address(slot: u8, host: u8) -> Ipv4Addr {
    match slot {
        0..4 => Ipv4Addr::new(198, 51, 100, 64 * slot + host),
        _ => Ipv4Addr::new(192, 0, 2, 64 * (slot - 4) + host),
    }
}

pub struct Wan {
    slot: u8,
    names: Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>,
    seen: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
    /// Lock on the slot, released on drop.
    _turn: File,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `ip ARGS`. Panics if the command fails.
#[track_caller]
pub fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {reported}");
}

/// Moves this thread and its future children into a network namespace.
pub fn enter(namespace: &File) {
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), kind).unwrap();
}

/// Locks a slot. `None` if the operation does not wait and the slot is in use.
fn take(slot: u8, operation: FlockOperation) -> Option<File> {
    let path = std::env::temp_dir().join(format!("pixels-test-wan{slot}.lock"));
    let file = File::create(path).unwrap();
    flock(&file, operation).ok()?;
    Some(file)
}

impl Wan {
    /// Waits until the first slot is free, then starts its network.
    pub fn first() -> Self {
        Self::start(FIRST, take(FIRST, FlockOperation::LockExclusive).unwrap())
    }

    /// Waits for a slot other than the first, then starts its network.
    pub fn any() -> Self {
        let free = (FIRST + 1..SLOTS).find_map(|slot| {
            let turn = take(slot, FlockOperation::NonBlockingLockExclusive)?;
            Some((slot, turn))
        });
        let last = SLOTS - 1;
        let (slot, turn) =
            free.unwrap_or_else(|| (last, take(last, FlockOperation::LockExclusive).unwrap()));
        Self::start(slot, turn)
    }

    fn start(slot: u8, turn: File) -> Self {
        let wan = Self {
            slot,
            names: Arc::default(),
            seen: Arc::default(),
            over: Arc::default(),
            _turn: turn,
        };
        // A namespace that exists despite the lock is left by a killed test.
        wan.remove();
        let (namespace, link, host) = (wan.namespace(), wan.link(), wan.address(HOST));
        ip(&format!("netns add {namespace}"));
        ip(&format!(
            "link add {link} type veth peer name eth0 netns {namespace}"
        ));
        ip(&format!("addr add {host}/26 dev {link}"));
        ip(&format!("link set {link} up"));
        let inside = |args: &str| ip(&format!("-n {namespace} {args}"));
        inside("link set lo up");
        inside("link set eth0 up");
        for last in ADDRESSES.into_iter().chain([SPARE]) {
            inside(&format!("addr add {}/26 dev eth0", wan.address(last)));
        }
        inside(&format!("addr add {METADATA}/32 dev eth0"));
        inside(&format!("route add default via {host}"));
        if slot == FIRST {
            let via = wan.address(1);
            ip(&format!("route add {METADATA} via {via} dev {link}"));
        }
        wan.inside(|wan| wan.serve());
        wan
    }

    fn namespace(&self) -> String {
        format!("pxwan{}", self.slot)
    }

    fn link(&self) -> String {
        format!("pxwan{}-host", self.slot)
    }

    /// Name of the bridge for the test's pixels.
    pub fn bridge(&self) -> String {
        format!("pxbr{}", self.slot)
    }

    pub fn address(&self, last: u8) -> Ipv4Addr {
        address(self.slot, last)
    }

    pub fn resolver(&self) -> Ipv4Addr {
        self.address(RESOLVER)
    }

    fn remove(&self) {
        let (namespace, link) = (self.namespace(), self.link());
        for args in [["netns", "del", &namespace], ["link", "del", &link]] {
            let _ = Command::new("ip").args(args).output();
        }
    }

    /// All addresses on which the servers answer.
    fn answering(&self) -> impl Iterator<Item = Ipv4Addr> {
        let slot = self.slot;
        let addresses = ADDRESSES.into_iter().map(move |last| address(slot, last));
        addresses.chain([METADATA])
    }

    /// Runs `work` in the namespace. Sockets that `work` opens stay there.
    fn inside<T: Send>(&self, work: impl FnOnce(&Self) -> T + Send) -> T {
        thread::scope(|scope| {
            let enter_and_work = || {
                enter(&File::open(format!("/run/netns/{}", self.namespace())).unwrap());
                work(self)
            };
            scope.spawn(enter_and_work).join().unwrap()
        })
    }

    fn serve(&self) {
        for port in TCP {
            for address in self.answering() {
                // The name server answers queries, see below.
                if (address, port) == (self.address(RESOLVER), 53) {
                    continue;
                }
                self.accept(TcpListener::bind((address, port)).unwrap(), hello);
            }
        }
        for port in UDP {
            self.datagrams(port, |printed, _| Some(printed.to_vec()));
        }
        let answer = {
            let names = self.names.clone();
            move |query: &[u8]| {
                let name = dns::question(query)?;
                let addresses = lock(&names).get(&name).cloned();
                Some(dns::answer(query, addresses.as_deref(), TTL_SECONDS))
            }
        };
        let udp = answer.clone();
        self.datagrams(53, move |query, _| udp(query));
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        self.accept(listener, move |stream, _| {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                let Ok(()) = stream.read_exact(&mut query) else {
                    return;
                };
                let Some(answer) = answer(&query) else { return };
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let _ = stream.write_all(&[&length[..], &answer].concat());
            }
        });
        self.watch();
    }

    fn accept(
        &self,
        listener: TcpListener,
        talk: impl Fn(&mut TcpStream, IpAddr) + Clone + Send + 'static,
    ) {
        let over = self.over.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let talk = talk.clone();
                thread::spawn(move || {
                    let mut stream = stream;
                    if let Ok(local) = stream.local_addr() {
                        talk(&mut stream, local.ip());
                    }
                });
            }
        });
    }

    fn datagrams(
        &self,
        port: u16,
        answer: impl Fn(&[u8], SocketAddr) -> Option<Vec<u8>> + Clone + Send + 'static,
    ) {
        // One socket per address, so that a response has the queried address.
        for address in self.answering() {
            let socket = UdpSocket::bind((address, port)).unwrap();
            let (over, answer) = (self.over.clone(), answer.clone());
            let pause = Some(Duration::from_millis(200));
            socket.set_read_timeout(pause).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !over.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    if let Some(answer) = answer(&buffer[..length], from) {
                        let _ = socket.send_to(&answer, from);
                    }
                }
            });
        }
    }

    /// Records every received frame.
    fn watch(&self) {
        let (every, close) = (Some(eth::ALL), SocketFlags::CLOEXEC);
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, close, every).unwrap();
        let timeout = Some(Duration::from_millis(200));
        set_socket_timeout(&socket, Timeout::Recv, timeout).unwrap();
        let (seen, over) = (self.seen.clone(), self.over.clone());
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                    lock(&seen).extend_from_slice(&buffer[..length]);
                }
            }
        });
    }

    /// Sets the name server's answer for a name to the addresses with these last
    /// bytes. The answer for all other names is NXDOMAIN.
    pub fn name(&self, name: &str, hosts: &[u8]) {
        let addresses = hosts.iter().map(|last| self.address(*last)).collect();
        lock(&self.names).insert(name.to_owned(), addresses);
    }

    /// Sets the name server's answer for a name to any address.
    pub fn name_outside(&self, name: &str, address: Ipv4Addr) {
        lock(&self.names).insert(name.to_owned(), vec![address]);
    }

    /// Whether `text` is in the received frames, ignoring case: DNS queries may
    /// use any case.
    pub fn saw(&self, text: &str) -> bool {
        let seen = lock(&self.seen);
        let text = text.as_bytes();
        seen.windows(text.len())
            .any(|part| part.eq_ignore_ascii_case(text))
    }

    pub fn forget(&self) {
        lock(&self.seen).clear();
    }

    /// Forwards connections from an address of this network to an address that
    /// this machine can reach.
    pub fn forward(&self, from: SocketAddr, to: SocketAddr) {
        let listener = self.inside(|_| TcpListener::bind(from).unwrap());
        self.accept(listener, move |near, _| {
            let Ok(far) = TcpStream::connect(to) else {
                return;
            };
            let (Ok(mut near_in), Ok(mut far_out)) = (near.try_clone(), far.try_clone()) else {
                return;
            };
            let up = thread::spawn(move || {
                let _ = std::io::copy(&mut near_in, &mut far_out);
                let _ = far_out.shutdown(std::net::Shutdown::Write);
            });
            let mut far = far;
            let _ = std::io::copy(&mut far, near);
            let _ = near.shutdown(std::net::Shutdown::Write);
            let _ = up.join();
        });
    }

    /// Calls `talk` for every connection to an address.
    pub fn host(
        &self,
        at: SocketAddr,
        talk: impl Fn(&mut TcpStream, IpAddr) + Clone + Send + 'static,
    ) {
        let listener = self.inside(|_| TcpListener::bind(at).unwrap());
        self.accept(listener, talk);
    }
}

/// Sends the server's address. If the request contains `slow`, also sends
/// `tick` every 50 ms until the client closes the connection.
fn hello(stream: &mut TcpStream, here: IpAddr) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut printed = [0; 2048];
    let length = stream.read(&mut printed).unwrap_or(0);
    let printed = String::from_utf8_lossy(&printed[..length]).into_owned();
    let head = match printed.starts_with("GET ") {
        true => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        false => "",
    };
    let mut sent = stream.write_all(format!("{head}hello from {here}\n").as_bytes());
    while sent.is_ok() && printed.contains("slow") {
        thread::sleep(Duration::from_millis(50));
        sent = stream.write_all(b"tick\n");
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.remove();
    }
}
