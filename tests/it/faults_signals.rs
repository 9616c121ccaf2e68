//! Commands interrupted and killed at random moments: what is left on the
//! server, and what `doctor` and `prune` make of it.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::env::{Outcome, TestEnv, finished};
use crate::support::lab;
use crate::support::leftovers;
use crate::support::private_daemon::{PrivateDaemon, signal};
use crate::support::proxy::{Fault, Proxy};
use crate::support::rounds::{Moments, rounds};
use crate::support::server::Server;
use crate::support::wait::eventually;

/// Against a hang.
const LIMIT: Duration = Duration::from_secs(120);

/// One kind of command that is cut short again and again, on a daemon of its
/// own: `prune` looks at a whole server.
struct Trial<'a> {
    daemon: &'a PrivateDaemon,
    env: TestEnv,
    server: Server,
    /// A pixel with a file and a checkpoint `ready` that has it, and a
    /// second file that came later.
    source: String,
    /// What the command makes is called so, or begins so.
    made: String,
    /// Every round begins without a gateway.
    first: bool,
    args: Vec<String>,
    moments: Moments,
    /// How long it takes when it is left alone.
    usual: Duration,
    ledger: Vec<(&'static str, u32)>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// With the gateway to be made first.
    First,
    Create,
    CreateFrom,
    ForkCheckpoint,
    ForkLive,
    Restore,
}

impl Kind {
    fn rounds(self, usual: u32) -> u32 {
        match self {
            // Two kinds of the same command share a long run.
            Self::ForkCheckpoint | Self::ForkLive => rounds(usual * 2) / 2,
            _ => rounds(usual),
        }
    }
}

impl<'a> Trial<'a> {
    fn new(daemon: &'a PrivateDaemon, test: &str, kind: Kind) -> Self {
        let env = daemon.isolated(test);
        let (source, made) = (env.name("s"), env.name("m"));
        if !matches!(kind, Kind::First | Kind::Create) {
            env.pixels(["create", &source]).ok();
            let write = "echo kept >/root/kept; sync";
            env.pixels(["exec", &source, "--", "sh", "-c", write]).ok();
            env.pixels(["checkpoint", "create", &source, "--label", "ready"])
                .ok();
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
            first: matches!(kind, Kind::First),
            args,
            moments: Moments::new(),
            usual: Duration::ZERO,
            ledger: Vec::new(),
        };
        if this.first {
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

    /// Runs the command and sends it `number` in part `round` of its duration.
    fn cut_short(&mut self, number: Signal, round: u32, rounds: u32) -> (Outcome, String) {
        // A little longer, so that the end of the command is met as well.
        let span = self.usual * 11 / 10;
        let moment = self.moments.in_part(span, round, rounds);
        let mut child = self.env.spawn(&self.args);
        drop(child.stdin.take());
        let until = Instant::now() + moment;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        signal(child.id(), number);
        let outcome = finished(child, LIMIT);
        let reported = format!("{:?} after {moment:?}: {outcome:?}", self.args);
        assert!(!outcome.stderr.contains("panicked"), "{reported}");
        (outcome, reported)
    }

    fn count(&mut self, what: &'static str) {
        match self.ledger.iter_mut().find(|(name, _)| *name == what) {
            Some((_, count)) => *count += 1,
            None => self.ledger.push((what, 1)),
        }
    }

    /// Nothing of the command is on the server.
    #[track_caller]
    fn nothing_left(&self, reported: &str) {
        assert_eq!(self.server.pixels(&self.made), [""; 0], "{reported}");
        assert_eq!(self.half_a_gateway(), None, "{reported}");
        self.no_temporary(reported);
    }

    #[track_caller]
    fn no_temporary(&self, reported: &str) {
        if self.server.status(&self.source).is_some() {
            assert_eq!(
                self.server.checkpoints(&self.source),
                ["ready"],
                "{reported}"
            );
        }
    }

    /// The pixel exists, is running, and runs commands.
    #[track_caller]
    fn usable(&self, name: &str, reported: &str) {
        let printed = self.env.pixels(["exec", name, "--", "hostname"]);
        assert_eq!(
            printed.stdout,
            format!("px-{name}\n"),
            "{printed:?}, {reported}"
        );
    }

    /// Removes what the command made.
    fn clear(&self) {
        let made = self.server.pixels(&self.made);
        if !made.is_empty() {
            let force = ["destroy", "--force"].map(str::to_owned);
            self.env.pixels(force.into_iter().chain(made)).ok();
        }
        if self.first {
            self.env.pixels(["network", "gateway", "remove"]).ok();
        }
    }

    /// Whether a gateway is there that was never finished.
    fn half_a_gateway(&self) -> Option<String> {
        let name = format!("px-gateway-{}", self.daemon.segment());
        let path = format!("/1.0/instances/{name}");
        let found = self
            .server
            .try_done("GET", &path, &serde_json::Value::Null)
            .ok()?;
        let finished = found["config"]["user.pixels.gateway"].is_string();
        (!finished).then_some(name)
    }

    fn report(&self, how: &str) {
        let ledger: Vec<String> = self
            .ledger
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        let (verb, usual) = (&self.args.join(" "), self.usual);
        eprintln!("{how}: {verb}: {} (usually {usual:?})", ledger.join(", "));
    }
}

fn interrupted(daemon: &PrivateDaemon, test: &str, kind: Kind, usual_rounds: u32) {
    let mut trial = Trial::new(daemon, test, kind);
    let rounds = kind.rounds(usual_rounds);
    for round in 0..rounds {
        let (outcome, reported) = trial.cut_short(Signal::INT, round, rounds);
        match outcome.code {
            0 => trial.count("complete"),
            130 => trial.count("interrupted"),
            // Before the program has begun to listen: nothing was sent yet.
            1002 => trial.count("interrupted before it began"),
            // Another daemon's interface went away at that moment.
            2 if trial.first && outcome.took_the_way_out() => trial.count("had no bridge"),
            _ => panic!("{reported}"),
        }
        if outcome.code == 0 {
            trial.no_temporary(&reported);
            for name in trial.server.pixels(&trial.made) {
                trial.usable(&name, &reported);
            }
            trial.clear();
        } else {
            trial.nothing_left(&reported);
            if trial.first {
                trial.clear();
            }
        }
        if matches!(kind, Kind::Restore) {
            whole(&trial, &reported);
        }
    }
    trial.report("SIGINT");
}

/// After a restore, begun or not, finished or not.
#[track_caller]
fn whole(trial: &Trial<'_>, reported: &str) {
    assert_eq!(
        trial.server.status(&trial.source).as_deref(),
        Some("Running"),
        "{reported}"
    );
    let read = ["exec", &trial.source, "--", "cat", "/root/kept"];
    let printed = trial.env.pixels(read);
    assert_eq!(printed.stdout, "kept\n", "{printed:?} {reported}");
}

/// Kills the command instead, and lets `doctor` and `prune` clean up.
fn killed(daemon: &PrivateDaemon, test: &str, kind: Kind, usual_rounds: u32) {
    let mut trial = Trial::new(daemon, test, kind);
    let rounds = kind.rounds(usual_rounds);
    for round in 0..rounds {
        let (outcome, reported) = trial.cut_short(Signal::KILL, round, rounds);
        if !matches!(outcome.code, 0 | 1009) {
            panic!("{reported}");
        }
        // What the server has been asked for it finishes by itself.
        trial.daemon.settle();
        let mut half: Vec<String> = trial
            .server
            .pixels(&trial.made)
            .into_iter()
            .filter(|name| trial.server.status(name).as_deref() != Some("Running"))
            .map(|name| format!("pixel {name}"))
            .collect();
        let has_source = trial.server.status(&trial.source).is_some();
        if has_source {
            let labels = trial.server.checkpoints(&trial.source);
            let temporary = labels.iter().filter(|label| label.starts_with("px-tmp-"));
            half.extend(temporary.map(|label| format!("checkpoint {label} of {}", trial.source)));
        }
        let gateway = trial.half_a_gateway();
        half.extend(gateway.map(|name| format!("gateway {name}")));
        half.sort();
        let whole_ones = running(&trial);
        trial.count(
            match (outcome.code, half.is_empty(), whole_ones.is_empty()) {
                (0, _, _) => "complete",
                (_, false, _) => "killed, something half-made",
                (_, true, true) => "killed, nothing made",
                (_, true, false) => "killed, only whole pixels",
            },
        );
        assert_eq!(
            leftovers::reported(&trial.env, &["prune", "--dry-run", "--json"]),
            half,
            "{reported}"
        );
        let seen = trial.env.pixels(["doctor"]);
        for one in &half {
            let name = one.split(' ').nth(1).unwrap();
            assert!(seen.stdout.contains(name), "{name}: {seen:?} {reported}");
            assert_ne!(seen.code, 0, "{reported}");
        }
        assert_eq!(
            leftovers::reported(&trial.env, &["prune", "--json"]),
            half,
            "{reported}"
        );
        assert_eq!(running(&trial), whole_ones, "{reported}");
        assert_eq!(trial.server.pixels(&trial.made), whole_ones, "{reported}");
        assert_eq!(trial.half_a_gateway(), None, "{reported}");
        trial.no_temporary(&reported);
        for name in &whole_ones {
            trial.usable(name, &reported);
        }
        if has_source {
            eventually("the source can be used", || {
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

#[test]
#[ignore = "needs Incus"]
fn interrupted_create_and_restore_leave_nothing() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    interrupted(&daemon, "intg", Kind::First, 3);
    interrupted(&daemon, "intc", Kind::Create, 6);
    interrupted(&daemon, "intf", Kind::CreateFrom, 6);
    interrupted(&daemon, "intr", Kind::Restore, 4);
}

#[test]
#[ignore = "needs Incus"]
fn interrupted_fork_leaves_nothing() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    interrupted(&daemon, "intk", Kind::ForkCheckpoint, 4);
    interrupted(&daemon, "intl", Kind::ForkLive, 4);
}

#[test]
#[ignore = "needs Incus"]
fn killed_create_and_restore_are_pruned() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    killed(&daemon, "kilg", Kind::First, 3);
    killed(&daemon, "kilc", Kind::Create, 6);
    killed(&daemon, "kilf", Kind::CreateFrom, 6);
    killed(&daemon, "kilr", Kind::Restore, 4);
}

#[test]
#[ignore = "needs Incus"]
fn killed_fork_is_pruned() {
    lab::ready();
    let daemon = PrivateDaemon::start();
    killed(&daemon, "kilk", Kind::ForkCheckpoint, 4);
    killed(&daemon, "kill", Kind::ForkLive, 4);
}

/// A command that meets `pattern` stalled, at which it is interrupted.
fn held_at(proxy: &Proxy, env: &TestEnv, pattern: &str, args: &[&str]) -> Child {
    proxy.forget().on(pattern, 0, Fault::Stall);
    let mut child = env.spawn(args);
    drop(child.stdin.take());
    eventually("the command is held", || proxy.saw(pattern));
    child
}

#[test]
#[ignore = "needs Incus"]
fn signals_interrupt_waiting_create() {
    lab::ready();
    const WAIT: &str = "GET /1.0/operations/*/wait*";
    let proxy = Proxy::start();
    let mut env = TestEnv::new("held");
    env.set("PIXELS_INCUS_SOCKET", proxy.socket().to_str().unwrap());
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
            let outcome = finished(child, LIMIT).expect(code);
            assert!(outcome.stderr.contains("interrupted"), "{outcome:?}");
            assert_eq!(server.status(&name), None, "{outcome:?}");
        }
    }

    // A second signal does not wait for the cleaning up, and a stalled
    // cleaning up is what it is for.
    proxy.on("GET /1.0/operations?recursion=1", 0, Fault::Stall);
    let child = held_at(&proxy, &env, WAIT, &["create", &name]);
    signal(child.id(), Signal::INT);
    eventually("the cleaning up has begun", || {
        proxy.saw("GET /1.0/operations?recursion=1")
    });
    signal(child.id(), Signal::INT);
    finished(child, LIMIT).expect(130);
    proxy.heal();
    server.settle(&name);
    // No process was left to remove it: prune does.
    let reported = env.pixels(["prune", "--json"]).json().to_string();
    assert!(reported.contains(&name), "{reported}");
    assert_eq!(server.status(&name), None);
}

#[test]
#[ignore = "needs Incus"]
fn signals_interrupt_exec_on_hanging_server() {
    lab::ready();
    const WAIT: &str = "GET /1.0/operations/*/wait*";
    let proxy = Proxy::start();
    let mut env = TestEnv::new("hung");
    env.set("PIXELS_INCUS_SOCKET", proxy.socket().to_str().unwrap());
    let name = env.name("a");
    env.pixels(["create", &name]).ok();

    // The command exits, but the server never reports it.
    let child = held_at(&proxy, &env, WAIT, &["exec", &name, "--", "sleep", "3000"]);
    for round in 1..=2 {
        signal(child.id(), Signal::INT);
        eventually("the signal is passed on", || {
            let passed = proxy.seen();
            passed
                .iter()
                .filter(|seen| seen.starts_with("POST ") && seen.ends_with("/exec"))
                .count()
                > round
        });
    }
    signal(child.id(), Signal::INT);
    finished(child, LIMIT).expect(130);

    let child = held_at(&proxy, &env, WAIT, &["exec", &name, "--", "sleep", "3000"]);
    signal(child.id(), Signal::TERM);
    finished(child, LIMIT).expect(143);

    let timed = ["exec", "--timeout", "1s", &name, "--", "sleep", "3000"];
    let child = held_at(&proxy, &env, WAIT, &timed);
    finished(child, LIMIT).expect(124);
}
