//! Proxies with injected faults: an HTTP proxy on a Unix socket, and a TCP
//! proxy that only forwards bytes.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::env::TestEnv;
use super::http;
use super::server::SHARED;

/// A fault injected into one request.
#[derive(Clone, Copy)]
pub enum Fault {
    /// Closes the connection without forwarding the request.
    CutBefore,
    /// Forwards the request, then closes the connection without a response.
    CutAfterRequest,
    /// Closes the connection after the header of the response.
    CutAfterHeader,
    /// Neither forwards nor answers the request.
    Stall,
    /// Forwards the request, but does not answer it.
    StallAfterRequest,
    /// Answers with this status and body without forwarding the request.
    Answer(u16, &'static str),
    /// Answers with an endless body without forwarding the request.
    Endless(u16),
    /// Forwards the request, but answers with this status and body.
    Instead(u16, &'static str),
    /// Forwards the request and changes the response.
    Change(fn(&mut Value)),
    /// Closes an upgraded connection after this many bytes from the server.
    CutStream(u64),
}

struct Rule {
    /// `METHOD path`, where `*` matches any text. `STREAM 1` matches the
    /// request for output stream 1 of a command.
    pattern: String,
    /// Number of matching requests before the fault.
    spared: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<String>>,
    /// Command streams by WebSocket secret.
    secrets: Mutex<HashMap<String, String>>,
    open: Mutex<Vec<UnixStream>>,
    /// Number of connections that closed without a request, after a request on
    /// another connection was completed. Connections that close earlier delay
    /// no other client and do not count.
    silent: AtomicU32,
    /// Number of requests, and number of the latest answered request.
    asked: AtomicUsize,
    answered: AtomicUsize,
    ended: AtomicBool,
}

/// A proxy between the binary and a daemon's Unix socket.
pub struct Proxy {
    dir: TempDir,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts a proxy to the shared daemon.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("proxy.socket")).unwrap();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if theirs.ended.load(Ordering::Relaxed) {
                    return;
                }
                theirs.keep(&client);
                let shared = Arc::clone(&theirs);
                // Broken connections are part of the tests.
                std::thread::spawn(move || {
                    let _ = serve(&client, &shared);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { dir, shared }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("proxy.socket")
    }

    /// An environment that connects through this proxy.
    pub fn env(&self, test: &str) -> TestEnv {
        let mut env = TestEnv::new(test);
        env.set("PIXELS_INCUS_SOCKET", self.socket().to_str().unwrap());
        env
    }

    /// Injects the fault into a matching request, after `spared` such requests.
    pub fn on(&self, pattern: &str, spared: usize, fault: Fault) -> &Self {
        self.shared.rules.lock().unwrap().push(Rule {
            pattern: pattern.to_owned(),
            spared,
            fault,
        });
        self
    }

    /// Removes all faults. Returns true if every fault had occurred.
    pub fn heal(&self) -> bool {
        let mut rules = self.shared.rules.lock().unwrap();
        let all = rules.is_empty();
        rules.clear();
        all
    }

    /// Clears the list of requests.
    pub fn forget(&self) -> &Self {
        self.shared.seen.lock().unwrap().clear();
        self
    }

    /// All requests since the last `forget`, as `METHOD path`.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Number of silent connections, which block other clients of the daemon.
    pub fn silent_connections(&self) -> u32 {
        self.shared.silent.load(Ordering::Relaxed)
    }

    pub fn saw(&self, pattern: &str) -> bool {
        self.seen().iter().any(|request| matches(pattern, request))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(self.socket());
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn keep(&self, stream: &UnixStream) {
        self.open.lock().unwrap().push(stream.try_clone().unwrap());
    }

    fn fault(&self, request: &str) -> Option<Fault> {
        let mut names = vec![request.to_owned()];
        if let Some((_, secret)) = request.split_once("secret=")
            && let Some(stream) = self.secrets.lock().unwrap().get(secret)
        {
            names.push(format!("STREAM {stream}"));
        }
        self.seen.lock().unwrap().extend(names.iter().cloned());
        let mut rules = self.rules.lock().unwrap();
        let mut due = None;
        for (index, rule) in rules.iter_mut().enumerate() {
            if !names.iter().any(|name| matches(&rule.pattern, name)) {
                continue;
            }
            if rule.spared == 0 && due.is_none() {
                due = Some(index);
            } else {
                rule.spared = rule.spared.saturating_sub(1);
            }
        }
        due.map(|index| rules.remove(index).fault)
    }

    fn learn(&self, answer: &Value) {
        if let Some(streams) = answer["metadata"]["metadata"]["fds"].as_object() {
            let mut secrets = self.secrets.lock().unwrap();
            for (stream, secret) in streams {
                let secret = secret.as_str().unwrap_or_default();
                secrets.insert(secret.to_owned(), stream.clone());
            }
        }
    }
}

/// Whether `text` matches `pattern`. `*` matches any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    text.strip_prefix(first).is_some_and(|text| {
        let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        ends.any(|at| matches(rest, &text[at..]))
    })
}

fn answer(status: u16, body: &str, mut to: &UnixStream) -> io::Result<()> {
    write!(
        to,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends an endless body until the client closes the connection.
fn endless(status: u16, mut to: &UnixStream) -> io::Result<()> {
    let head = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    write!(
        to,
        "HTTP/1.1 {status} X\r\n{head}\r\n1001\r\n[{:4096}\r\n",
        ""
    )?;
    let chunk = format!("8000\r\n{:32768}\r\n", "");
    loop {
        to.write_all(chunk.as_bytes())?;
    }
}

fn serve(mut client: &UnixStream, shared: &Shared) -> io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    // A silent connection would block the daemon, so wait for the first
    // request.
    let mut upstream: Option<(UnixStream, BufReader<UnixStream>)> = None;
    let asked = shared.asked.load(Ordering::SeqCst);
    if from_client.fill_buf()?.is_empty() && shared.answered.load(Ordering::SeqCst) > asked {
        shared.silent.fetch_add(1, Ordering::Relaxed);
    }
    while let Some(head) = http::head(&mut from_client)? {
        let mut request = head.clone().into_bytes();
        http::body(&head, &mut from_client, &mut request)?;
        let number = shared.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let words: Vec<&str> = head.split(' ').take(2).collect();
        let fault = shared.fault(&words.join(" "));
        match fault {
            Some(Fault::CutBefore) => return Ok(()),
            Some(Fault::Stall) => {
                let _ = from_client.read(&mut [0]);
                return Ok(());
            }
            Some(Fault::Answer(status, body)) => {
                answer(status, body, client)?;
                continue;
            }
            Some(Fault::Endless(status)) => return endless(status, client),
            _ => {}
        }
        let (to, from) = match &mut upstream {
            Some(open) => open,
            none => {
                let to = UnixStream::connect(SHARED)?;
                shared.keep(&to);
                let from = BufReader::new(to.try_clone()?);
                none.insert((to, from))
            }
        };
        to.write_all(&request)?;
        if matches!(fault, Some(Fault::CutAfterRequest)) {
            client.shutdown(Shutdown::Both)?;
        }
        let Some(head) = http::head(from)? else {
            return Ok(());
        };
        if head.starts_with("HTTP/1.1 101") {
            client.write_all(head.as_bytes())?;
            let limit = match fault {
                Some(Fault::CutStream(bytes)) => bytes,
                _ => u64::MAX,
            };
            return relay(client, from_client, to, from, limit);
        }
        if matches!(fault, Some(Fault::CutAfterHeader)) {
            client.write_all(head.as_bytes())?;
            client.shutdown(Shutdown::Both)?;
        }
        let mut reply = head.clone().into_bytes();
        let content = match words[0] {
            "HEAD" => Vec::new(),
            _ => http::body(&head, from, &mut reply)?,
        };
        let parsed: Option<Value> = serde_json::from_slice(&content).ok();
        if let Some(parsed) = &parsed {
            shared.learn(parsed);
        }
        match (fault, parsed) {
            (Some(Fault::StallAfterRequest), _) => {
                let _ = from_client.read(&mut [0]);
                return Ok(());
            }
            (Some(Fault::CutAfterRequest | Fault::CutAfterHeader), _) => return Ok(()),
            (Some(Fault::Instead(status, body)), _) => answer(status, body, client)?,
            (Some(Fault::Change(change)), Some(mut parsed)) => {
                change(&mut parsed);
                answer(200, &parsed.to_string(), client)?;
            }
            _ => client.write_all(&reply)?,
        }
        shared.answered.fetch_max(number, Ordering::SeqCst);
    }
    Ok(())
}

/// Copies bytes in both directions, at most `limit` bytes from the server.
fn relay(
    mut client: &UnixStream,
    mut from_client: BufReader<UnixStream>,
    server: &UnixStream,
    from_server: &mut BufReader<UnixStream>,
    limit: u64,
) -> io::Result<()> {
    let mut to_server = server.try_clone()?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let copied = io::copy(&mut from_server.take(limit), &mut client);
    let _ = server.shutdown(Shutdown::Both);
    copied.map(drop)
}

/// A TCP proxy that forwards bytes until [`Self::cut`].
pub struct Wire {
    pub port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
    ended: Arc<AtomicBool>,
}

impl Wire {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let this = Self {
            port: listener.local_addr().unwrap().port(),
            open: Arc::default(),
            ended: Arc::default(),
        };
        let (open, ended) = (Arc::clone(&this.open), Arc::clone(&this.ended));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let ends = [&client, &server].map(|end| end.try_clone().unwrap());
                open.lock().unwrap().extend(ends);
                for (mut from, mut to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                ] {
                    std::thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        this
    }

    /// Closes all connections and accepts no new connections.
    pub fn cut(&self) {
        self.ended.store(true, Ordering::Relaxed);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

#[test]
fn patterns_match_whole_requests() {
    for (pattern, text, is) in [
        ("*", "GET /1.0", true),
        ("GET /1.0", "GET /1.0", true),
        ("GET /1.0", "GET /1.0/instances", false),
        (
            "* /1.0/operations/*/wait*",
            "GET /1.0/operations/x/wait?timeout=-1",
            true,
        ),
        ("PUT */state", "PUT /1.0/instances/a/state", true),
        ("PUT */state", "PUT /1.0/instances/a/state?x", false),
        ("PUT */state", "GET /1.0/instances/a/state", false),
    ] {
        assert_eq!(matches(pattern, text), is, "{pattern} {text}");
    }
}
