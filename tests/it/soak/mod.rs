//! Soak test: several clients run common commands at the same time, in many
//! rounds. Most rounds have a fault: a client is killed or interrupted, the
//! daemon is killed or restarted, the pool is full, or the gateway is stopped
//! or deleted. After every round, the server must match a ledger of the
//! reported results.
//!
//! `PIXELS_SOAK_ROUNDS` is the number of rounds, `PIXELS_SOAK_SECONDS` the
//! maximum duration. `PIXELS_TEST_SEED` reproduces a run.

mod faults;
mod ledger;

use std::process::Child;
use std::time::{Duration, Instant};

use crate::support::env::{Outcome, TestEnv, finished};
use crate::support::lab;
use crate::support::private_daemon::{PrivateDaemon, RESERVED_IDS};
use crate::support::rounds::{Moments, env_number};
use crate::support::wait::eventually;

use faults::Fault;
use ledger::{Ledger, Pixels, Task, Work};

const ROUNDS: &str = "PIXELS_SOAK_ROUNDS";
const SECONDS: &str = "PIXELS_SOAK_SECONDS";
const CLIENTS: usize = 3;
/// From this number of pixels on, most clients destroy pixels.
const CROWD: usize = 7;
/// Timeout that only ends hanging commands.
const LIMIT: Duration = Duration::from_secs(180);
/// Maximum delay of a fault after the start of the commands.
const SPAN: Duration = Duration::from_millis(1500);
/// Size of the pushed file in bytes.
const PUSHED: usize = 3_000_000;

struct Soak {
    daemon: PrivateDaemon,
    clients: Vec<TestEnv>,
    moments: Moments,
    ledger: Ledger,
    /// The source of clones and forks, not changed by commands.
    source: String,
    file: tempfile::NamedTempFile,
    made: u32,
}

#[test]
#[ignore = "needs Incus"]
fn random_commands_and_faults_match_ledger() {
    lab::ready();
    let rounds = env_number(ROUNDS).unwrap_or(12);
    let most = env_number(SECONDS).map_or(Duration::MAX, Duration::from_secs);
    let mut soak = Soak::begin();
    let begun = Instant::now();
    let mut round = 0;
    while round < rounds && begun.elapsed() < most {
        soak.round(round);
        round += 1;
        if round % 50 == 0 {
            eprintln!("{round} rounds so far: {}", soak.ledger);
        }
    }
    let (seed, took) = (soak.moments.seed, begun.elapsed().as_secs());
    soak.end();
    eprintln!(
        "soak of {round} rounds, seed {seed}, {took} s: {}; no leftovers",
        soak.ledger
    );
}

impl Soak {
    fn begin() -> Self {
        let daemon = PrivateDaemon::start();
        let clients: Vec<TestEnv> = (0..CLIENTS).map(|_| daemon.isolated("soak")).collect();
        let source = clients[0].name("source");
        clients[0].pixels(["create", &source]).ok();
        let ready = ["checkpoint", "create", &source, "--label", "ready"];
        clients[0].pixels(ready).ok();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'x'; PUSHED]).unwrap();
        let mut ledger = Ledger::default();
        ledger.has(&source, &["ready"]);
        Self {
            daemon,
            clients,
            moments: Moments::new(),
            ledger,
            source,
            file,
            made: 0,
        }
    }

    fn round(&mut self, round: u64) {
        let fault = Fault::of_round(round, &mut self.moments);
        let kind = format!("rounds with {fault:?}");
        self.ledger
            .count(kind.split('(').next().unwrap().to_owned());
        let tasks: Vec<Task> = self.tasks();
        let reported = format!("round {round}, {fault:?}, {tasks:?}");
        let moment = self.moments.within(SPAN);
        // A full pool must exist before the commands start.
        let obstacle = fault.before(&self.daemon);
        let children: Vec<Child> = tasks
            .iter()
            .map(|task| self.clients[task.client].start(&task.args))
            .collect();
        if fault.strikes() {
            std::thread::sleep(moment);
            fault.strike(&mut self.daemon, &children);
        }
        let outcomes: Vec<Outcome> = children
            .into_iter()
            .map(|child| finished(child, LIMIT))
            .collect();
        drop(obstacle);
        fault.heal(&mut self.daemon, &self.clients[0]);
        // The daemon also completes requests of killed clients.
        self.daemon.settle();
        for (task, outcome) in tasks.iter().zip(&outcomes) {
            self.ledger.record(task, outcome, fault, &reported);
        }
        let reported = format!("{reported}, {outcomes:?}");
        self.clean_up(&reported);
        self.compare(&reported);
        for task in &tasks {
            self.check_pixels_of(task, &reported);
        }
    }

    /// One task per client. Tasks never share a target pixel.
    fn tasks(&mut self) -> Vec<Task> {
        let mut free = self.ledger.names();
        free.retain(|name| *name != self.source);
        let crowded = free.len() >= CROWD;
        (0..CLIENTS)
            .map(|client| {
                let work = match self.moments.below(16) {
                    _ if crowded && client < 2 => Work::Destroy,
                    0..4 => Work::Create,
                    4..6 => Work::Clone,
                    6..8 => Work::Fork,
                    8..10 => Work::Exec,
                    10..12 => Work::Push,
                    12 => Work::Checkpoint,
                    13..15 => Work::Restore,
                    _ => Work::Destroy,
                };
                let target = (!work.makes_pixels() && !free.is_empty())
                    .then(|| free.swap_remove(self.moments.below(free.len())));
                self.task(client, work, target)
            })
            .collect()
    }

    fn task(&mut self, client: usize, work: Work, target: Option<String>) -> Task {
        self.made += 1;
        let new = self.clients[client].name(&format!("n{}", self.made));
        let label = format!("c{}", self.made);
        let source = self.source.clone();
        let ready = format!("{source}:ready");
        let Some(target) = target else {
            let work = match work {
                Work::Clone | Work::Fork => work,
                _ => Work::Create,
            };
            let args: Vec<&str> = match work {
                Work::Clone => vec!["create", &new, "--from", &ready],
                Work::Fork if self.made.is_multiple_of(2) => {
                    vec!["fork", &ready, "-n", "2", "--prefix", &new]
                }
                Work::Fork => vec!["fork", &source, "-n", "2", "--prefix", &new],
                _ => vec!["create", &new],
            };
            return Task::new(client, work, &new, "", &args);
        };
        let (work, label) = match (work, self.ledger.last_checkpoint(&target)) {
            (Work::Restore, Some(last)) => (Work::Restore, last),
            (Work::Restore, None) => (Work::Checkpoint, label),
            (work, _) => (work, label),
        };
        let place = format!("{target}:/root/pushed");
        let args: Vec<&str> = match work {
            Work::Exec => vec!["exec", &target, "--", "sh", "-c", "echo printed; exit 7"],
            Work::Push => vec!["push", self.file.path().to_str().unwrap(), &place],
            Work::Checkpoint => vec!["checkpoint", "create", &target, "--label", &label],
            Work::Restore => vec!["checkpoint", "restore", &target, &label],
            _ => vec!["destroy", "--force", &target],
        };
        Task::new(client, work, &target, &label, &args)
    }

    /// Asserts that `doctor` lists and `prune` deletes all leftovers, and that
    /// the fault explains each leftover.
    fn clean_up(&mut self, reported: &str) {
        let env = &self.clients[0];
        let named = env.prune(&["--dry-run"]);
        if !self.ledger.is_in_doubt() {
            assert_eq!(named, [""; 0], "{reported}");
            return;
        }
        // The server may still be deleting these pixels.
        for name in self.ledger.half_removed() {
            let again = env.pixels_within(["destroy", "--force", &name], LIMIT);
            assert!(matches!(again.code, 0 | 3), "{again:?} {reported}");
        }
        let seen = env.pixels(["doctor"]);
        for one in &named {
            let name = one.split(' ').nth(1).unwrap();
            assert!(seen.stdout.contains(name), "{name}: {seen:?} {reported}");
            self.ledger.may_be_left(one, reported);
        }
        assert_eq!(env.prune(&[]), named, "{reported}");
        assert_eq!(env.prune(&[]), [""; 0], "{reported}");
    }

    /// Asserts that pixels and checkpoints on the server match the ledger.
    fn compare(&mut self, reported: &str) {
        let server = &self.daemon.server;
        let there: Pixels = server
            .pixels("t-soak-")
            .into_iter()
            .map(|name| (name.clone(), server.checkpoints(&name)))
            .collect();
        self.ledger.resolve_doubts(&there);
        self.ledger.assert_equals(&there, reported);
    }

    /// Asserts that the pixels of a task are usable after the round.
    fn check_pixels_of(&self, task: &Task, reported: &str) {
        let env = &self.clients[0];
        for name in self.ledger.made_by(task) {
            if self.daemon.server.status(&name).as_deref() != Some("Running") {
                env.pixels_within(["start", &name], LIMIT).ok();
            }
            let size = "wc -c 2>/dev/null </root/pushed || echo none";
            let mut printed = Outcome::default();
            eventually("the pixel is usable", || {
                printed = env.pixels(["exec", &name, "--", "sh", "-c", size]);
                printed.code == 0
            });
            let whole = printed.stdout == "none\n" || printed.stdout == format!("{PUSHED}\n");
            assert!(whole, "partial file in {name}: {printed:?} {reported}");
        }
    }

    /// Deletes all pixels and asserts that the server has no leftovers.
    fn end(&mut self) {
        let env = &self.clients[0];
        env.destroy(self.ledger.names()).ok();
        env.pixels(["network", "gateway", "remove"]).ok();
        assert_eq!(env.prune(&[]), [""; 0]);
        let left = self.daemon.server.get("/1.0/instances");
        assert_eq!(
            left,
            serde_json::json!([format!("/1.0/instances/{RESERVED_IDS}")])
        );
        let seen = env.pixels(["doctor", "--json"]).json();
        let all = seen.as_array().unwrap().iter();
        let leftovers = all.filter(|check| check["id"] == "leftovers");
        assert!(leftovers.clone().count() > 0);
        for check in leftovers {
            assert_eq!(check["status"], "ok", "{check}");
        }
    }
}
