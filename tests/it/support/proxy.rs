//! Connections that fail on purpose: a proxy on a Unix socket that knows
//! requests and answers, and one for TCP that only forwards bytes.

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

/// What happens to one request.
#[derive(Clone, Copy)]
pub enum Fault {
    /// The server never sees it.
    CutBefore,
    /// The server gets it; its answer is lost.
    CutAfterRequest,
    /// The answer breaks off after its header.
    CutAfterHeader,
    /// The server never sees it and nothing is answered.
    Stall,
    /// The server never sees it; this is answered.
    Answer(u16, &'static str),
    /// The server never sees it; what is answered has no end.
    Endless(u16),
    /// The server gets it; this is answered in its place.
    Instead(u16, &'static str),
    /// The server gets it; its answer is changed.
    Change(fn(&mut Value)),
    /// For upgraded connections: cut after this many bytes from the server.
    CutStream(u64),
}

struct Rule {
    /// `METHOD path`, `*` for any text; an output stream of a command is
    /// asked for as `STREAM 1`.
    pattern: String,
    /// How many matching requests pass before.
    spared: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<String>>,
    /// Which stream of a command a secret opens.
    secrets: Mutex<HashMap<String, String>>,
    open: Mutex<Vec<UnixStream>>,
    /// Connections that closed without a request on them and stayed open over
    /// a whole exchange on another. One that is given up before its request
    /// left closes at once, and delays no test.
    silent: AtomicU32,
    /// Requests so far, and the latest of them that has its answer.
    asked: AtomicUsize,
    answered: AtomicUsize,
    ended: AtomicBool,
}

/// Between the binary and a daemon's Unix socket.
pub struct Proxy {
    dir: TempDir,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of the shared daemon.
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
                // A connection that breaks is what this is for.
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

    /// An environment whose requests pass through here.
    pub fn env(&self, test: &str) -> TestEnv {
        let mut env = TestEnv::new(test);
        env.set("PIXELS_INCUS_SOCKET", self.socket().to_str().unwrap());
        env
    }

    /// The first request that matches, after `spared` others that do, meets the fault.
    pub fn on(&self, pattern: &str, spared: usize, fault: Fault) -> &Self {
        self.shared.rules.lock().unwrap().push(Rule {
            pattern: pattern.to_owned(),
            spared,
            fault,
        });
        self
    }

    /// No more faults; true when all of them had happened.
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

    /// All requests so far, `METHOD path`.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Each of these would have held up every client of the daemon.
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

/// `*` matches any text.
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

/// Until the client has had enough of it.
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
    // The daemon must never be left with a silent connection, so this waits
    // for the first request.
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

/// Bytes in both directions, at most `limit` of the server's.
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

/// Between the binary and a TCP port: passes bytes until it is cut.
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

    /// Ends every connection and takes no new one.
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
