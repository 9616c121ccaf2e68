//! The expected server state, from the reported results of commands.

use std::collections::BTreeMap;
use std::fmt;

use super::faults::Fault;
use crate::support::env::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Create,
    Clone,
    Fork,
    Exec,
    Push,
    Checkpoint,
    Restore,
    Destroy,
}

impl Work {
    pub fn makes_pixels(self) -> bool {
        matches!(self, Self::Create | Self::Clone | Self::Fork)
    }
}

#[derive(Debug)]
pub struct Task {
    pub client: usize,
    pub work: Work,
    /// The pixel name, or the name prefix of new pixels.
    pub target: String,
    pub label: String,
    pub args: Vec<String>,
}

impl Task {
    pub fn new(client: usize, work: Work, target: &str, label: &str, args: &[&str]) -> Self {
        Self {
            client,
            work,
            target: target.to_owned(),
            label: label.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
        }
    }
}

#[derive(Default)]
pub struct Ledger {
    pixels: Pixels,
    /// Changes with an unknown outcome: no process reported a result.
    doubts: Vec<Doubt>,
    counts: BTreeMap<String, u32>,
}

enum Doubt {
    /// Created pixels named `NAME` or `NAME-…`.
    Made(String),
    Removed(String),
    Checkpoint(String, String),
    /// A temporary checkpoint of a clone's source pixel.
    Temporary,
}

/// Checkpoint labels of each pixel, oldest first.
pub type Pixels = BTreeMap<String, Vec<String>>;

impl Ledger {
    pub fn has(&mut self, name: &str, labels: &[&str]) {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        self.pixels.insert(name.to_owned(), labels);
    }

    pub fn names(&self) -> Vec<String> {
        self.pixels.keys().cloned().collect()
    }

    pub fn last_checkpoint(&self, name: &str) -> Option<String> {
        self.pixels.get(name)?.last().cloned()
    }

    pub fn count(&mut self, what: String) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Records a result. Panics on a failure that `fault` does not explain.
    #[track_caller]
    pub fn record(&mut self, task: &Task, outcome: &Outcome, fault: Fault, reported: &str) {
        let reported = format!("{task:?}: {outcome:?}, {reported}");
        let expected = if task.work == Work::Exec { 7 } else { 0 };
        let name = &task.target;
        if outcome.code == expected {
            self.count(format!("{:?} done", task.work));
            match task.work {
                Work::Create | Work::Clone => {
                    assert!(outcome.stdout.contains(name.as_str()), "{reported}");
                    self.has(name, &[]);
                }
                Work::Fork => {
                    let mut names: Vec<&str> = outcome.stdout.lines().collect();
                    names.sort_unstable();
                    assert_eq!(names, [1, 2].map(|n| format!("{name}-{n}")), "{reported}");
                    names.iter().for_each(|name| self.has(name, &[]));
                }
                Work::Exec => assert_eq!(outcome.stdout, "printed\n", "{reported}"),
                Work::Checkpoint => {
                    let labels = self.pixels.get_mut(name).expect(name);
                    labels.push(task.label.clone());
                }
                Work::Destroy => drop(self.pixels.remove(name)),
                Work::Push | Work::Restore => {}
            }
            return;
        }
        assert!(fault.explains(task.client, outcome.code), "{reported}");
        self.count(format!("{:?} interrupted", task.work));
        match task.work {
            // The command has rolled back its changes.
            work if work.makes_pixels() && !fault.leaves_doubt() => {}
            Work::Create | Work::Clone | Work::Fork => {
                self.doubts.push(Doubt::Made(name.clone()));
                self.doubts.push(Doubt::Temporary);
            }
            Work::Destroy => self.doubts.push(Doubt::Removed(name.clone())),
            Work::Checkpoint => {
                let doubt = Doubt::Checkpoint(name.clone(), task.label.clone());
                self.doubts.push(doubt);
            }
            Work::Exec | Work::Push | Work::Restore => {}
        }
    }

    /// Pixels whose deletion was interrupted.
    pub fn half_removed(&self) -> Vec<String> {
        let removed = self.doubts.iter().filter_map(|doubt| match doubt {
            Doubt::Removed(name) => Some(name.clone()),
            _ => None,
        });
        removed.collect()
    }

    pub fn is_in_doubt(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// Panics unless an interrupted command explains the leftover.
    #[track_caller]
    pub fn may_be_left(&mut self, leftover: &str, reported: &str) {
        let mut words = leftover.split(' ');
        let (kind, name) = (words.next().unwrap(), words.next().unwrap());
        let explained = self.doubts.iter().any(|doubt| match doubt {
            Doubt::Made(of) => kind == "pixel" && is_of(name, of),
            Doubt::Temporary => kind == "gateway" || name.starts_with("px-tmp-"),
            _ => false,
        });
        assert!(explained, "unexpected leftover: {leftover}, {reported}");
        self.count(format!("{kind} leftovers pruned"));
    }

    /// Resolves unknown outcomes from the actual server state.
    pub fn resolve_doubts(&mut self, there: &Pixels) {
        for doubt in std::mem::take(&mut self.doubts) {
            match doubt {
                Doubt::Made(of) => {
                    for name in there.keys().filter(|name| is_of(name, &of)) {
                        self.count("complete pixel of an interrupted command".into());
                        self.has(name, &[]);
                    }
                }
                Doubt::Removed(name) => drop(self.pixels.remove(&name)),
                Doubt::Checkpoint(name, label) => {
                    let taken = there
                        .get(&name)
                        .is_some_and(|labels| labels.contains(&label));
                    if let Some(labels) = self.pixels.get_mut(&name).filter(|_| taken) {
                        labels.push(label);
                    }
                }
                Doubt::Temporary => {}
            }
        }
    }

    #[track_caller]
    pub fn assert_equals(&self, there: &Pixels, reported: &str) {
        let sorted = |pixels: &Pixels| {
            let mut pixels = pixels.clone();
            pixels.values_mut().for_each(|labels| labels.sort());
            pixels
        };
        let (ours, theirs) = (sorted(&self.pixels), sorted(there));
        assert_eq!(ours, theirs, "ledger (left), server (right), {reported}");
    }

    /// The pixels of a task in the ledger.
    pub fn made_by(&self, task: &Task) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| is_of(name, &task.target));
        names
    }
}

fn is_of(name: &str, of: &str) -> bool {
    let rest = name.strip_prefix(of);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts.iter();
        let counts: Vec<String> = counts.map(|(what, n)| format!("{n} {what}")).collect();
        write!(f, "{}; {} pixels", counts.join(", "), self.pixels.len())
    }
}

#[test]
fn ledger_reports_missing_and_unexpected_pixels() {
    let mut ledger = Ledger::default();
    ledger.has("a", &["c1"]);
    let there = |names: &[(&str, &[&str])]| -> Pixels {
        let owned = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect();
        let names = names.iter();
        names
            .map(|(name, labels)| ((*name).to_owned(), owned(labels)))
            .collect()
    };
    let differs = |there: &Pixels| {
        let equal = std::panic::AssertUnwindSafe(|| ledger.assert_equals(there, "a test"));
        std::panic::catch_unwind(equal).is_err()
    };
    assert!(!differs(&there(&[("a", &["c1"])])));
    for other in [
        &[][..],
        &[("a", &[][..])],
        &[("a", &["c1", "px-tmp-1"])],
        &[("a", &["c1"]), ("b", &[])],
    ] {
        assert!(differs(&there(other)), "{other:?}");
    }
}
