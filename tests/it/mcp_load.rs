//! Many concurrent clients of a server that is killed repeatedly: answers stay
//! correct, and the list matches the pixels on the backend.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::mcp::{Client, McpServer, environment, sandbox_prefix, text};
use crate::support::rounds::{Moments, rounds};
use crate::support::server::Server;
use crate::support::wait::eventually;

const CLIENTS: usize = 16;
const CALLS: usize = 50;
/// One client in every `MAKERS` creates and destroys sandboxes; all clients use
/// the shared sandboxes.
const MAKERS: usize = 4;
const SHARED: usize = 3;
/// The maximum time between two kills.
const SPAN: Duration = Duration::from_millis(500);

/// The current server, shared by all clients.
struct Desk {
    client: Mutex<Client>,
    /// Incremented when the server is killed and when a new server runs: odd
    /// while no server runs.
    turn: AtomicU64,
    over: AtomicBool,
    shared: Vec<String>,
}

impl Desk {
    fn open(server: &McpServer) -> Self {
        let client = server.client();
        let first = client.sandbox("quick");
        let fork = json!({"name": first, "wait_sec": 60});
        let mut shared: Vec<String> = (1..SHARED)
            .map(|_| text(&client.call("fork_sandbox", fork.clone())["name"]))
            .collect();
        shared.push(first);
        Self {
            client: Mutex::new(client),
            turn: AtomicU64::new(0),
            over: AtomicBool::new(false),
            shared,
        }
    }

    fn call(&self, tool: &str, arguments: Value) -> Option<Result<Value, String>> {
        let before = self.turn.load(Ordering::SeqCst);
        let client = self.client.lock().unwrap().clone();
        let reported = client.try_call(tool, arguments);
        let killed = before % 2 == 1 || self.turn.load(Ordering::SeqCst) != before;
        assert!(reported.is_some() || killed, "{tool} was not answered");
        reported
    }

    /// Kills the server and starts a new one.
    fn replace(&self, server: McpServer, env: &TestEnv) -> McpServer {
        self.turn.fetch_add(1, Ordering::SeqCst);
        server.kill();
        let server = McpServer::start(env);
        *self.client.lock().unwrap() = server.client();
        self.turn.fetch_add(1, Ordering::SeqCst);
        server
    }
}

/// Stops all workers on drop, also if the test fails.
struct Over<'a>(&'a Desk);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// One client and the results that the server has confirmed to it.
struct Worker<'a> {
    desk: &'a Desk,
    number: usize,
    answered: usize,
    /// The client's sandbox, and whether its removal was requested.
    own: Option<String>,
    leaving: bool,
    /// The client asked for a sandbox and did not receive its name.
    unsure: bool,
    /// The last content written, and the last content confirmed.
    tried: u64,
    written: u64,
}

impl<'a> Worker<'a> {
    fn new(desk: &'a Desk, number: usize) -> Self {
        Self {
            desk,
            number,
            answered: 0,
            own: None,
            leaving: false,
            unsure: false,
            tried: 0,
            written: 0,
        }
    }

    /// Returns `None` if the server was killed before it answered.
    fn ask(&mut self, tool: &str, arguments: Value) -> Option<Result<Value, String>> {
        let reported = self.desk.call(tool, arguments);
        match reported {
            Some(_) => self.answered += 1,
            // Waits for the next server.
            None => std::thread::sleep(Duration::from_millis(20)),
        }
        reported
    }

    /// Like `ask`, for calls that must succeed.
    fn reported(&mut self, tool: &str, arguments: Value) -> Option<Value> {
        let reported = self.ask(tool, arguments)?;
        Some(reported.unwrap_or_else(|reason| panic!("{tool}: {reason}")))
    }

    fn work(mut self) -> Self {
        let mut step = 0;
        while self.answered < CALLS || !self.desk.over.load(Ordering::Relaxed) {
            let makes = self.number.is_multiple_of(MAKERS);
            match step % 10 {
                0 if makes => self.make(),
                5 if makes => self.remove(),
                1 | 6 => self.write(),
                2 | 7 => self.read(),
                3 => drop(self.reported("list_sandboxes", json!({}))),
                _ => self.run(),
            }
            step += 1;
        }
        self
    }

    fn place(&self) -> Value {
        let name = &self.desk.shared[self.number % SHARED];
        json!({"name": name, "path": format!("/root/{}", self.number)})
    }

    fn write(&mut self) {
        self.tried += 1;
        let mut file = self.place();
        file["content"] = json!(self.tried.to_string());
        if self.reported("write_file", file).is_some() {
            self.written = self.tried;
        }
    }

    /// The file has confirmed or later content and is never incomplete.
    fn read(&mut self) {
        if self.written == 0 {
            return self.write();
        }
        let Some(read) = self.reported("read_file", self.place()) else {
            return;
        };
        let found: u64 = read["content"].as_str().unwrap().parse().unwrap();
        let expected = self.written..=self.tried;
        assert!(expected.contains(&found), "{found}: {expected:?}");
    }

    fn run(&mut self) {
        let text = format!("{} {}", self.number, self.answered);
        let name = &self.desk.shared[self.number % SHARED];
        let command = json!({"name": name, "command": ["printf", "%s", text]});
        if let Some(ran) = self.reported("exec", command) {
            assert_eq!(ran["stdout"], text, "{ran}");
        }
    }

    fn make(&mut self) {
        if self.unsure {
            return self.find();
        }
        if self.own.is_some() {
            return self.remove();
        }
        let label = self.number.to_string();
        let arguments = json!({"base": "quick", "label": label, "wait_sec": 60});
        let Some(made) = self.reported("create_sandbox", arguments) else {
            self.unsure = true;
            return;
        };
        assert_eq!(made["status"], "running", "{made}");
        self.own = Some(text(&made["name"]));
    }

    /// Looks for the sandbox whose creation was not confirmed.
    fn find(&mut self) {
        let Some(list) = self.reported("list_sandboxes", json!({})) else {
            return;
        };
        let label = json!(self.number.to_string());
        let mut mine = list["sandboxes"].as_array().unwrap().iter();
        let mine = mine.find(|one| one["label"] == label);
        self.own = mine.map(|one| text(&one["name"]));
        self.unsure = false;
    }

    fn remove(&mut self) {
        let Some(name) = self.own.clone() else { return };
        match self.ask("destroy_sandbox", json!({"name": name})) {
            None => self.leaving = true,
            Some(Err(reason)) if !self.leaving || !reason.contains("no sandbox") => {
                panic!("destroy_sandbox: {reason}")
            }
            Some(_) => {
                self.own = None;
                self.leaving = false;
            }
        }
    }

    /// Checks unconfirmed calls after the last kill.
    fn settle(&mut self) {
        if self.unsure {
            self.find();
        }
        if self.leaving {
            self.remove();
        }
        self.read();
    }
}

/// Sixteen clients send calls while `disturb` runs. Then compares the sandboxes
/// known to the clients, the server's list and the pixels.
fn sixteen_clients(env: &TestEnv, disturb: impl FnOnce(&Desk, McpServer) -> McpServer) {
    let server = McpServer::start(env);
    let desk = Desk::open(&server);
    let desk = &desk;
    let (server, mut workers) = std::thread::scope(|scope| {
        let working: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || Worker::new(desk, number).work()))
            .collect();
        let over = Over(desk);
        let server = disturb(desk, server);
        drop(over);
        let ends = working.into_iter().map(|one| one.join().unwrap());
        (server, ends.collect::<Vec<_>>())
    });
    let calls: usize = workers.iter().map(|worker| worker.answered).sum();
    assert!(calls >= CLIENTS * CALLS, "{calls}");
    eprintln!("{calls} calls answered");
    for worker in &mut workers {
        worker.settle();
    }
    let client = server.client();
    eventually("all sandboxes are running", || {
        client.list().iter().all(|(_, status)| status == "running")
    });
    let listed: BTreeSet<String> = client.list().into_iter().map(|(name, _)| name).collect();
    let own = workers.iter().filter_map(|worker| worker.own.clone());
    let known: BTreeSet<String> = own.chain(desk.shared.clone()).collect();
    assert_eq!(listed, known, "{}", server.log());
    let prefix = sandbox_prefix(env);
    eventually("the pixels match the list", || {
        let there: BTreeSet<String> = Server::shared().pixels(&prefix).into_iter().collect();
        there == listed
    });
    for name in &listed {
        client.sh(name, "true");
    }
    assert_eq!(server.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn concurrent_clients_get_all_responses() {
    lab::ready();
    let env = environment("mcp-many");
    sixteen_clients(&env, |_, server| server);
}

#[test]
#[ignore = "needs Incus"]
fn killed_server_loses_no_sandbox() {
    lab::ready();
    let env = environment("mcp-kills");
    let mut moments = Moments::new();
    sixteen_clients(&env, |desk, mut server| {
        for _ in 0..rounds(30) {
            std::thread::sleep(moments.within(SPAN));
            server = desk.replace(server, &env);
        }
        server
    });
}
