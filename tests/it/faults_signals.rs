//! Commands interrupted and killed at random moments: the leftovers on the
//! server, and how `doctor` and `prune` report and delete them.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::env::{Outcome, TestEnv, finished};
use crate::support::lab;
use crate::support::private_daemon::{PrivateDaemon, signal};
use crate::support::proxy::{Fault, Proxy};
use crate::support::rounds::{Moments, rounds};
use crate::support::server::Server;
use crate::support::wait::eventually;

/// Time limit of a command, to detect a hang.
const LIMIT: Duration = Duration::from_secs(120);
const WAIT: &str = "GET /1.0/operations/*/wait*";

/// Interrupts one kind of command repeatedly. Uses a private daemon, because
/// `prune` deletes leftovers on the whole server.
struct Trial<'a> {
    daemon: &'a PrivateDaemon,
    env: TestEnv,
    server: Server,
    /// A pixel with a file, and with the checkpoint `ready` taken after the
    /// file was written.
    source: String,
    /// The name, or name prefix, of the pixels that the command creates.
    made: String,
    kind: Kind,
    args: Vec<String>,
    moments: Moments,
    /// How long the command takes without an interruption.
    usual: Duration,
    ledger: BTreeMap<&'static str, u32>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Creates a pixel and the gateway, which is removed after every round.
    First,
    Create,
    CreateFrom,
    ForkCheckpoint,
    ForkLive,
    Restore,
}

impl<'a> Trial<'a> {
    fn new(daemon: &'a PrivateDaemon, test: &str, kind: Kind) -> Self {
        let env = daemon.isolated(test);
        let (source, made) = (env.name("s"), env.name("m"));
        if !matches!(kind, Kind::First | Kind::Create) {
            env.pixels(["create", &source]).ok();
            let write = "echo kept >/root/kept; sync";
            env.pixels(["exec", &source, "--", "sh", "-c", write]).ok();
            env.checkpoint(&source, "ready");
        }
        let ready = format!("{source}:ready");
        let args: Vec<&str> = match kind {
            Kind::First | Kind::Create => vec!["create", &made],
            Kind::CreateFrom => vec!["create", &made, "--from", &ready],
            Kind::ForkCheckpoint => vec!["fork", &ready, "-n", "4", "--prefix", &made],
            Kind::ForkLive => vec!["fork", &source, "-n", "4", "--prefix", &made],
            Kind::Restore => vec!["checkpoint", "restore", &source, "ready"],
        };
        let args = args.into_iter().map(str::to_owned).collect();
        let mut this = Self {
            env,
            daemon,
            server: daemon.server.clone(),
            source,
            made,
            kind,
            args,
            moments: Moments::new(),
            usual: Duration::ZERO,
            ledger: BTreeMap::new(),
        };
        if kind == Kind::First {
            // The daemon's first create also unpacks the image.
            this.env.pixels(&this.args).ok();
            this.clear();
        }
        let begun = Instant::now();
        this.env.pixels(&this.args).ok();
        this.usual = begun.elapsed();
        this.clear();
        this
    }

    /// Sends the signal `number` in part `round` of the usual duration.
    fn cut_short(&mut self, number: Signal, round: u32, rounds: u32) -> (Outcome, String) {
        // The span is longer, so that some signals arrive near the end.
        let span = self.usual * 11 / 10;
        let moment = self.moments.in_part(span, round, rounds);
        let child = self.env.start(&self.args);
        let until = Instant::now() + moment;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        signal(child.id(), number);
        let outcome = finished(child, LIMIT);
        let reported = format!("{:?} after {moment:?}: {outcome:?}", self.args);
        (outcome, reported)
    }

    /// Whether the command failed because another daemon deleted an interface at that
    /// moment. Then nothing but the interface that its hint names is left, which this
    /// deletes.
    #[track_caller]
    fn failed_to_create_bridge(&mut self, outcome: &Outcome) -> bool {
        let failed =
            outcome.code == 2 && self.kind == Kind::First && outcome.deletes_named_interface();
        if failed {
            self.nothing_left(&format!("{outcome:?}"));
            self.count("failed to create the bridge");
        }
        failed
    }

    fn count(&mut self, what: &'static str) {
        *self.ledger.entry(what).or_default() += 1;
    }

    /// Nothing that the command created is on the server.
    #[track_caller]
    fn nothing_left(&self, reported: &str) {
        assert_eq!(self.server.pixels(&self.made), [""; 0], "{reported}");
        assert_eq!(self.half_a_gateway(), None, "{reported}");
        self.no_temporary(reported);
    }

    #[track_caller]
    fn no_temporary(&self, reported: &str) {
        if self.server.status(&self.source).is_some() {
            let labels = self.server.checkpoints(&self.source);
            assert_eq!(labels, ["ready"], "{reported}");
        }
    }

    /// The pixel exists, is running, and runs commands.
    #[track_caller]
    fn usable(&self, name: &str, reported: &str) {
        let printed = self.env.pixels(["exec", name, "--", "hostname"]);
        let hostname = format!("px-{name}\n");
        assert_eq!(printed.stdout, hostname, "{printed:?}, {reported}");
    }

    /// Deletes what the command created.
    fn clear(&self) {
        self.env.destroy(self.server.pixels(&self.made)).ok();
        if self.kind == Kind::First {
            self.env.pixels(["network", "gateway", "remove"]).ok();
        }
    }

    /// The name of an incomplete gateway, if one exists.
    fn half_a_gateway(&self) -> Option<String> {
        let name = self.daemon.gateway();
        let path = format!("/1.0/instances/{name}");
        let found = self
            .server
            .try_done("GET", &path, &serde_json::Value::Null)
            .ok()?;
        let finished = found["config"]["user.pixels.gateway"].is_string();
        (!finished).then_some(name)
    }

    fn report(&self, how: &str) {
        let (verb, ledger, usual) = (self.args.join(" "), &self.ledger, self.usual);
        eprintln!("{how}: {verb}: {ledger:?} (usually {usual:?})");
    }
}

fn interrupted(mut trial: Trial<'_>, rounds: u32) {
    for round in 0..rounds {
        let (outcome, reported) = trial.cut_short(Signal::INT, round, rounds);
        match outcome.code {
            0 => trial.count("complete"),
            130 => trial.count("interrupted"),
            // The program had no signal handler yet and had sent no request.
            1002 => trial.count("interrupted before start"),
            _ if trial.failed_to_create_bridge(&outcome) => {}
            _ => panic!("{reported}"),
        }
        if outcome.code == 0 {
            trial.no_temporary(&reported);
            for name in trial.server.pixels(&trial.made) {
                trial.usable(&name, &reported);
            }
        } else {
            trial.nothing_left(&reported);
        }
        trial.clear();
        if trial.kind == Kind::Restore {
            whole(&trial, &reported);
        }
    }
    trial.report("SIGINT");
}

/// The source pixel runs and has its file, whether or not the restore finished.
#[track_caller]
fn whole(trial: &Trial<'_>, reported: &str) {
    let status = trial.server.status(&trial.source);
    assert_eq!(status.as_deref(), Some("Running"), "{reported}");
    let read = ["exec", &trial.source, "--", "cat", "/root/kept"];
    let printed = trial.env.pixels(read);
    assert_eq!(printed.stdout, "kept\n", "{printed:?} {reported}");
}

/// Kills the command and checks the cleanup by `doctor` and `prune`.
fn killed(mut trial: Trial<'_>, rounds: u32) {
    for round in 0..rounds {
        let (outcome, reported) = trial.cut_short(Signal::KILL, round, rounds);
        if trial.failed_to_create_bridge(&outcome) {
            continue;
        }
        assert!(matches!(outcome.code, 0 | 1009), "{reported}");
        // The server finishes the requests that it has received.
        trial.daemon.settle();
        let whole_ones = running(&trial);
        let mut half = trial.server.pixels(&trial.made);
        half.retain(|name| !whole_ones.contains(name));
        half.iter_mut()
            .for_each(|name| name.insert_str(0, "pixel "));
        let has_source = trial.server.status(&trial.source).is_some();
        if has_source {
            let labels = trial.server.checkpoints(&trial.source);
            let temporary = labels.iter().filter(|label| label.starts_with("px-tmp-"));
            half.extend(temporary.map(|label| format!("checkpoint {label} of {}", trial.source)));
        }
        let gateway = trial.half_a_gateway();
        half.extend(gateway.map(|name| format!("gateway {name}")));
        half.sort();
        trial.count(
            match (outcome.code, half.is_empty(), whole_ones.is_empty()) {
                (0, _, _) => "complete",
                (_, false, _) => "killed, incomplete pixels left",
                (_, true, true) => "killed, no pixels left",
                (_, true, false) => "killed, only complete pixels left",
            },
        );
        let named = trial.env.prune(&["--dry-run"]);
        assert_eq!(named, half, "{reported}");
        let seen = trial.env.pixels(["doctor"]);
        for one in &half {
            let name = one.split(' ').nth(1).unwrap();
            assert!(seen.stdout.contains(name), "{name}: {seen:?} {reported}");
            assert_ne!(seen.code, 0, "{reported}");
        }
        assert_eq!(trial.env.prune(&[]), half, "{reported}");
        assert_eq!(running(&trial), whole_ones, "{reported}");
        assert_eq!(trial.server.pixels(&trial.made), whole_ones, "{reported}");
        assert_eq!(trial.half_a_gateway(), None, "{reported}");
        trial.no_temporary(&reported);
        for name in &whole_ones {
            trial.usable(name, &reported);
        }
        if has_source {
            eventually("the source runs commands", || {
                let read = ["exec", &trial.source, "--", "cat", "/root/kept"];
                trial.env.pixels(read).stdout == "kept\n"
            });
        }
        trial.clear();
    }
    trial.report("SIGKILL");
}

fn running(trial: &Trial<'_>) -> Vec<String> {
    let mut all = trial.server.pixels(&trial.made);
    all.retain(|name| trial.server.status(name).as_deref() == Some("Running"));
    all
}

type Check = fn(Trial<'_>, u32);

fn check_creates_and_restores(check: Check, test: &str) {
    let daemon = PrivateDaemon::start();
    for (kind, letter, usual) in [
        (Kind::First, 'g', 3),
        (Kind::Create, 'c', 6),
        (Kind::CreateFrom, 'f', 6),
        (Kind::Restore, 'r', 4),
    ] {
        let trial = Trial::new(&daemon, &format!("{test}{letter}"), kind);
        check(trial, rounds(usual));
    }
}

fn check_forks(check: Check, test: &str) {
    let daemon = PrivateDaemon::start();
    for (kind, letter) in [(Kind::ForkCheckpoint, 'k'), (Kind::ForkLive, 'l')] {
        let trial = Trial::new(&daemon, &format!("{test}{letter}"), kind);
        // Both kinds are forks, so they share the rounds of a long run.
        check(trial, rounds(8) / 2);
    }
}

#[test]
#[ignore = "needs Incus"]
fn interrupted_create_and_restore_leave_nothing() {
    lab::ready();
    check_creates_and_restores(interrupted, "int");
}

#[test]
#[ignore = "needs Incus"]
fn interrupted_fork_leaves_nothing() {
    lab::ready();
    check_forks(interrupted, "int");
}

#[test]
#[ignore = "needs Incus"]
fn killed_create_and_restore_are_pruned() {
    lab::ready();
    check_creates_and_restores(killed, "kil");
}

#[test]
#[ignore = "needs Incus"]
fn killed_fork_is_pruned() {
    lab::ready();
    check_forks(killed, "kil");
}

/// Starts a command and waits until the request `pattern` stalls.
fn held_at(proxy: &Proxy, env: &TestEnv, pattern: &str, args: &[&str]) -> Child {
    proxy.forget().on(pattern, 0, Fault::Stall);
    let child = env.start(args);
    eventually("the request is stalled", || proxy.saw(pattern));
    child
}

#[test]
#[ignore = "needs Incus"]
fn signals_interrupt_waiting_create() {
    lab::ready();
    let proxy = Proxy::start();
    let env = proxy.env("held");
    let server = Server::shared();
    let name = env.name("a");

    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        for pattern in [
            "GET /1.0/profiles/default",
            "GET /1.0/images/aliases/*",
            WAIT,
        ] {
            let child = held_at(&proxy, &env, pattern, &["create", &name]);
            signal(child.id(), number);
            let outcome = finished(child, LIMIT).expect(code).reports("interrupted");
            assert_eq!(server.status(&name), None, "{outcome:?}");
        }
    }

    // A second signal exits without waiting for a cleanup that stalls.
    proxy.on("GET /1.0/operations?recursion=1", 0, Fault::Stall);
    let child = held_at(&proxy, &env, WAIT, &["create", &name]);
    signal(child.id(), Signal::INT);
    eventually("the cleanup has started", || {
        proxy.saw("GET /1.0/operations?recursion=1")
    });
    signal(child.id(), Signal::INT);
    finished(child, LIMIT).expect(130);
    proxy.heal();
    server.settle(&name);
    // The exited process left the pixel, and `prune` deletes it.
    assert!(env.prune(&[]).contains(&format!("pixel {name}")));
    assert_eq!(server.status(&name), None);
}

#[test]
#[ignore = "needs Incus"]
fn signals_interrupt_exec_on_hanging_server() {
    lab::ready();
    let proxy = Proxy::start();
    let env = proxy.env("hung");
    let name = env.create("a");

    // The command exits, but the server never reports it.
    let sleep = ["exec", &name, "--", "sleep", "3000"];
    let child = held_at(&proxy, &env, WAIT, &sleep);
    for round in 1..=2 {
        signal(child.id(), Signal::INT);
        eventually("the signal is forwarded", || {
            let mut requests = proxy.seen();
            requests.retain(|seen| seen.starts_with("POST ") && seen.ends_with("/exec"));
            requests.len() > round
        });
    }
    signal(child.id(), Signal::INT);
    finished(child, LIMIT).expect(130);

    let child = held_at(&proxy, &env, WAIT, &sleep);
    signal(child.id(), Signal::TERM);
    finished(child, LIMIT).expect(143);

    let timed = ["exec", "--timeout", "1s", &name, "--", "sleep", "3000"];
    let child = held_at(&proxy, &env, WAIT, &timed);
    finished(child, LIMIT).expect(124);
}
