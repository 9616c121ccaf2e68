//! The benchmark rows and their targets.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::binary::Binary;
use crate::crowd;
use crate::files;
use crate::lab::{Lab, VOLUME};
use crate::measure::{Contender, Who, take_turns};
use crate::network;
use crate::process::Program;
use crate::report::Outcome;
use crate::sandboxes;

pub struct Row {
    pub name: &'static str,
    pub case: &'static str,
    pub target: Target,
    measure: Measure,
}

#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At most this multiple of the time of `Who`.
    Time(f64, Who),
    /// At least this multiple of the throughput of `Who`.
    Throughput(f64, Who),
    /// At most this many milliseconds.
    Within(f64),
    /// A static binary of at most this many bytes.
    Bytes(u64),
}

#[derive(Clone, Copy)]
enum Measure {
    /// Needs no daemon.
    Alone(fn(&Bench<'_>) -> Result<Outcome>),
    /// Needs a lab with the base pixel.
    InLab(fn(&Bench<'_>, &Lab) -> Result<Outcome>),
}

pub const ROWS: &[Row] = &[
    Row::new(
        "version",
        "--version",
        Target::Time(0.2, Who::Incus),
        Measure::Alone(version),
    ),
    Row::new(
        "size",
        "size of the static binary",
        Target::Bytes(12_000_000),
        Measure::Alone(size),
    ),
    Row::new(
        "exec",
        "exec -- true",
        Target::Time(0.4, Who::Incus),
        Measure::InLab(exec),
    ),
    Row::new(
        "exec-stdout",
        "100 MB out of exec",
        Target::Throughput(1.0, Who::Incus),
        Measure::InLab(exec_stdout),
    ),
    Row::new(
        "exec-stdin",
        "100 MB into exec",
        Target::Throughput(1.0, Who::Incus),
        Measure::InLab(exec_stdin),
    ),
    Row::new(
        "push",
        "push of 100 MB",
        Target::Throughput(1.5, Who::Incus),
        Measure::InLab(files::push),
    ),
    Row::new(
        "pull",
        "pull of 100 MB",
        Target::Throughput(2.0, Who::Incus),
        Measure::InLab(files::pull),
    ),
    Row::new(
        "push-small",
        "push of 2,000 files of 2 KiB",
        Target::Time(0.1, Who::Incus),
        Measure::InLab(files::push_small),
    ),
    Row::new(
        "pull-small",
        "pull of 2,000 files of 2 KiB",
        Target::Time(0.1, Who::Incus),
        Measure::InLab(files::pull_small),
    ),
    Row::new(
        "clone",
        "create --from base:ready, first exec",
        Target::Time(1.15, Who::Api),
        Measure::InLab(clone),
    ),
    Row::new(
        "sandbox",
        "create_sandbox of a base, first exec",
        Target::Time(1.3, Who::Api),
        Measure::InLab(sandboxes::create),
    ),
    Row::new(
        "isolated",
        "clone behind the gateway and without a gateway",
        Target::Time(1.1, Who::Open),
        Measure::InLab(network::isolated),
    ),
    Row::new(
        "policy",
        "network set of a running pixel",
        Target::Within(300.0),
        Measure::InLab(network::policy),
    ),
    Row::new(
        "list",
        "list of 200 pixels",
        Target::Time(0.1, Who::Incus),
        Measure::InLab(list),
    ),
    Row::new(
        "crowd-clone",
        "clone behind a gateway with 400 pixels",
        Target::Time(1.1, Who::Open),
        Measure::InLab(crowd::clone),
    ),
    Row::new(
        "crowd-policy",
        "network set of one of 400 running pixels",
        Target::Within(300.0),
        Measure::InLab(crowd::policy),
    ),
    Row::new(
        "crowd-list",
        "list of 400 running pixels",
        Target::Time(0.1, Who::Incus),
        Measure::InLab(crowd::list),
    ),
    Row::new(
        "flood-udp",
        "network set while a pixel sends to denied ports",
        Target::Time(2.0, Who::Quiet),
        Measure::InLab(crowd::flood_udp),
    ),
    Row::new(
        "flood-tcp",
        "network set while a pixel opens allowed connections",
        Target::Time(2.0, Who::Quiet),
        Measure::InLab(crowd::flood_tcp),
    ),
    Row::new(
        "flood-dns",
        "network set while a pixel sends DNS queries",
        Target::Time(2.0, Who::Quiet),
        Measure::InLab(crowd::flood_dns),
    ),
];

impl Row {
    const fn new(name: &'static str, case: &'static str, target: Target, measure: Measure) -> Self {
        Self {
            name,
            case,
            target,
            measure,
        }
    }

    pub fn needs_daemon(&self) -> bool {
        matches!(self.measure, Measure::InLab(_))
    }

    /// Whether the target is relative to the `incus` client.
    fn needs_client(&self) -> bool {
        use Target::{Throughput, Time};
        matches!(self.target, Time(_, Who::Incus) | Throughput(_, Who::Incus))
    }
}

const CROWD: usize = 200;
const RUNNING: usize = 4;

/// The inputs of all rows.
pub struct Bench<'a> {
    pub runs: usize,
    pub binary: &'a Binary,
    pub earlier: Option<&'a Path>,
    pub incus: Option<&'a Path>,
    pub lab: Result<&'a Lab, &'a String>,
    /// Notes at the end of the report.
    pub notes: RefCell<Vec<String>>,
}

impl<'a> Bench<'a> {
    pub fn measure(&self, row: &Row) -> Result<Outcome> {
        if row.needs_client() && self.incus.is_none() {
            return Ok(Outcome::NotMeasured(
                "the incus client is not installed; run: pixels setup --with-client".into(),
            ));
        }
        eprintln!("{}: {}", row.name, row.case);
        let outcome = match (row.measure, self.lab) {
            (Measure::Alone(measure), _) => measure(self),
            (Measure::InLab(_), Err(reason)) => Ok(Outcome::NotMeasured(reason.clone())),
            (Measure::InLab(measure), Ok(lab)) => lab.base().and_then(|()| measure(self, lab)),
        };
        outcome.context(row.name)
    }

    /// The pixels binaries of this run.
    pub fn pixels(&self) -> impl Iterator<Item = (Who, &'a Path)> + use<'a> {
        let earlier = self.earlier.map(|path| (Who::Earlier, path));
        [(Who::Pixels, self.binary.path.as_path())]
            .into_iter()
            .chain(earlier)
    }

    /// The pixels binaries and, if installed, the `incus` client.
    fn programs(&self) -> impl Iterator<Item = (Who, &'a Path)> + use<'a> {
        self.pixels()
            .chain(self.incus.map(|path| (Who::Incus, path)))
    }

    /// One contender for each program.
    pub fn contenders<'c, Run>(
        &self,
        lab: &Lab,
        run: impl Fn(Who, Program) -> Run,
    ) -> Vec<Contender<'c>>
    where
        Run: FnMut() -> Result<Duration> + 'c,
    {
        self.programs()
            .map(|(who, path)| Contender::new(who, run(who, lab.program(path))))
            .collect()
    }

    pub fn compare(&self, contenders: Vec<Contender<'_>>) -> Result<Outcome> {
        self.compare_n(contenders, self.runs)
    }

    pub fn compare_n(&self, contenders: Vec<Contender<'_>>, runs: usize) -> Result<Outcome> {
        Ok(Outcome::Times(take_turns(contenders, runs)?))
    }
}

fn version(bench: &Bench<'_>) -> Result<Outcome> {
    let home = tempfile::tempdir()?;
    let contenders = bench.programs().map(|(who, path)| {
        let program = Program {
            path: path.to_owned(),
            home: home.path().to_owned(),
            ..Program::default()
        };
        Contender::new(who, move || program.run(&["--version"]))
    });
    // Single runs are short, so more of them take little time.
    bench.compare_n(contenders.collect(), bench.runs * 5)
}

fn size(bench: &Bench<'_>) -> Result<Outcome> {
    Ok(Outcome::Size {
        bytes: bench.binary.bytes,
        is_static: bench.binary.is_static,
    })
}

fn exec(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let mut contenders = bench.contenders(lab, |who, program| {
        let name = lab.called(who, "base");
        move || program.run(&["exec", &name, "--", "true"])
    });
    contenders.push(Contender::new(Who::Api, || {
        let begun = Instant::now();
        let code = lab.api().exec(&lab.instance("base"), &["true"])?;
        ensure!(code == 0, "true exited with {code}");
        Ok(begun.elapsed())
    }));
    bench.compare_n(contenders, bench.runs * 2)
}

fn exec_stdout(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let bytes = &VOLUME.to_string();
    bench.compare(bench.contenders(lab, |who, program| {
        let name = lab.called(who, "base");
        move || {
            let words = ["exec", &name, "--", "head", "-c", bytes, "/dev/zero"];
            program.drained(&words, VOLUME)
        }
    }))
}

fn exec_stdin(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let (file, bytes) = (&lab.file()?, &VOLUME.to_string());
    bench.compare(bench.contenders(lab, |who, program| {
        let name = lab.called(who, "base");
        move || program.fed(&["exec", &name, "--", "wc", "-c"], file, bytes)
    }))
}

fn clone(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let mut contenders = bench.contenders(lab, |who, program| {
        move || match who {
            Who::Incus => timed_clone(lab, |instance| {
                let source = format!("{}/ready", lab.instance("base"));
                program.run(&["copy", &source, instance])?;
                program.run(&["start", instance])?;
                program.run(&["exec", instance, "--", "true"])
            }),
            _ => timed_create(lab, &program),
        }
    });
    contenders.push(raw_clone(lab));
    bench.compare(contenders)
}

/// Clones the base with pixels and runs the first command in the clone.
pub fn timed_create(lab: &Lab, program: &Program) -> Result<Duration> {
    let (name, ready) = (lab.name("w"), format!("{}:ready", lab.name("base")));
    timed_clone(lab, |_| {
        program.run(&["create", &name, "--from", &ready])?;
        program.run(&["exec", &name, "--", "true"])
    })
}

/// Measures `work`, which creates the instance, and deletes the instance.
fn timed_clone<T>(lab: &Lab, work: impl FnOnce(&str) -> Result<T>) -> Result<Duration> {
    let instance = lab.instance("w");
    let begun = Instant::now();
    work(&instance)?;
    let took = begun.elapsed();
    lab.api().remove(&instance)?;
    Ok(took)
}

/// Clones the base through the bare API and runs the first command.
pub fn raw_clone(lab: &Lab) -> Contender<'_> {
    let clone = move |instance: &str| {
        let mut api = lab.api();
        let source = format!("{}/ready", lab.instance("base"));
        let body = json!({
            "name": instance,
            "source": {"type": "copy", "source": source, "instance_only": true},
        });
        api.operate("POST", "/1.0/instances", &body)?;
        api.state(instance, "start", false)?;
        let code = api.exec(instance, &["true"])?;
        ensure!(code == 0, "true exited with {code}");
        Ok(())
    };
    Contender::new(Who::Api, move || timed_clone(lab, clone))
}

fn list(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    eprintln!("creating {CROWD} pixels");
    let took = lab.crowd(CROWD, RUNNING)?;
    bench.notes.borrow_mut().push(format!(
        "creating the {CROWD} pixels of the list, {} of them running, took {:.1} s",
        RUNNING + 1,
        took.as_secs_f64()
    ));
    compare_lists(bench, lab, CROWD)
}

/// Lists the `count` pixels of a lab.
pub fn compare_lists(bench: &Bench<'_>, lab: &Lab, count: usize) -> Result<Outcome> {
    for (_, path) in bench.pixels() {
        let listed = lab.program(path).output(&["list", "--json"])?;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed)?;
        ensure!(listed.len() == count, "{} pixels listed", listed.len());
    }
    let mut contenders = bench.contenders(lab, |who, program| {
        move || match who {
            Who::Incus => program.run(&["list", "-f", "csv"]),
            _ => program.run(&["list"]),
        }
    });
    let gateway = format!("/1.0/instances/{}", lab.gateway());
    contenders.push(Contender::new(Who::Api, move || {
        let begun = Instant::now();
        let mut api = lab.api();
        api.call("GET", "/1.0/instances?recursion=1", None)?;
        // The gateway's instance stores the addresses of its pixels.
        api.call("GET", &gateway, None)?;
        Ok(begun.elapsed())
    }));
    bench.compare(contenders)
}
