//! What is measured, and the target of each.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::binary::Binary;
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
    pub needs_daemon: bool,
    /// The reference is the `incus` client, which is not everywhere.
    pub needs_client: bool,
    pub measure: fn(&Bench<'_>, &mut Vec<String>) -> Result<Outcome>,
}

#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Time, as a share of what `Who` takes.
    Time { at_most: f64, of: Who },
    /// Throughput, as a multiple of that of `Who`.
    Throughput { at_least: f64, of: Who },
    /// Time, in milliseconds.
    Within { at_most: f64 },
    /// A static binary of this size.
    Bytes { at_most: u64 },
}

pub const ROWS: &[Row] = &[
    Row {
        name: "version",
        case: "--version",
        target: Target::Time {
            at_most: 0.2,
            of: Who::Incus,
        },
        needs_daemon: false,
        needs_client: true,
        measure: version,
    },
    Row {
        name: "size",
        case: "size of the static binary",
        target: Target::Bytes {
            at_most: 12_000_000,
        },
        needs_daemon: false,
        needs_client: false,
        measure: |bench, _| {
            Ok(Outcome::Size {
                bytes: bench.binary.bytes,
                is_static: bench.binary.is_static,
            })
        },
    },
    Row {
        name: "exec",
        case: "exec -- true",
        target: Target::Time {
            at_most: 0.4,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: exec,
    },
    Row {
        name: "exec-stdout",
        case: "100 MB out of exec",
        target: Target::Throughput {
            at_least: 1.0,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: exec_stdout,
    },
    Row {
        name: "exec-stdin",
        case: "100 MB into exec",
        target: Target::Throughput {
            at_least: 1.0,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: exec_stdin,
    },
    Row {
        name: "push",
        case: "push of 100 MB",
        target: Target::Throughput {
            at_least: 1.5,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: files::push,
    },
    Row {
        name: "pull",
        case: "pull of 100 MB",
        target: Target::Throughput {
            at_least: 2.0,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: files::pull,
    },
    Row {
        name: "push-small",
        case: "push of 2,000 files of 2 KiB",
        target: Target::Time {
            at_most: 0.1,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: files::push_small,
    },
    Row {
        name: "pull-small",
        case: "pull of 2,000 files of 2 KiB",
        target: Target::Time {
            at_most: 0.1,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: files::pull_small,
    },
    Row {
        name: "clone",
        case: "create --from base:ready, first exec",
        target: Target::Time {
            at_most: 1.15,
            of: Who::Api,
        },
        needs_daemon: true,
        needs_client: false,
        measure: clone,
    },
    Row {
        name: "sandbox",
        case: "create_sandbox of a base, first exec",
        target: Target::Time {
            at_most: 1.3,
            of: Who::Api,
        },
        needs_daemon: true,
        needs_client: false,
        measure: sandboxes::create,
    },
    Row {
        name: "isolated",
        case: "the same behind the gateway and without one",
        target: Target::Time {
            at_most: 1.1,
            of: Who::Open,
        },
        needs_daemon: true,
        needs_client: false,
        measure: network::isolated,
    },
    Row {
        name: "policy",
        case: "network set of a running pixel",
        target: Target::Within { at_most: 300.0 },
        needs_daemon: true,
        needs_client: false,
        measure: network::policy,
    },
    Row {
        name: "list",
        case: "list of 200",
        target: Target::Time {
            at_most: 0.1,
            of: Who::Incus,
        },
        needs_daemon: true,
        needs_client: true,
        measure: list,
    },
];

const CROWD: usize = 200;
const RUNNING: usize = 4;

/// What the rows have at hand.
pub struct Bench<'a> {
    pub runs: usize,
    pub binary: &'a Binary,
    pub earlier: Option<&'a Path>,
    pub incus: Option<&'a Path>,
    pub lab: Result<&'a Lab, &'a String>,
}

impl<'a> Bench<'a> {
    /// Why a row cannot be measured here.
    pub fn missing(&self, row: &Row) -> Option<String> {
        if row.needs_client && self.incus.is_none() {
            return Some(
                "the incus client is not installed (pixels setup --with-client does that)".into(),
            );
        }
        match self.lab {
            Err(reason) if row.needs_daemon => Some(reason.clone()),
            _ => None,
        }
    }

    pub fn lab(&self) -> Result<&'a Lab> {
        self.lab.map_err(|reason| anyhow::anyhow!(reason.clone()))
    }

    /// The pixels binaries of this run.
    pub fn pixels(&self) -> impl Iterator<Item = (Who, &'a Path)> + use<'a> {
        let earlier = self.earlier.map(|path| (Who::Earlier, path));
        [(Who::Pixels, self.binary.path.as_path())]
            .into_iter()
            .chain(earlier)
    }

    /// The `incus` client, where it is installed.
    fn client(&self) -> impl Iterator<Item = (Who, &'a Path)> + use<'a> {
        self.incus.map(|path| (Who::Incus, path)).into_iter()
    }

    /// Everything that is run as a process.
    pub fn programs(&self) -> impl Iterator<Item = (Who, &'a Path)> + use<'a> {
        self.pixels().chain(self.client())
    }

    pub fn compare(&self, contenders: Vec<Contender<'_>>) -> Result<Outcome> {
        self.compare_n(contenders, self.runs)
    }

    pub fn compare_n(&self, contenders: Vec<Contender<'_>>, runs: usize) -> Result<Outcome> {
        Ok(Outcome::Times(take_turns(contenders, runs)?))
    }
}

fn base(lab: &Lab, who: Who) -> String {
    lab.called(who, "base")
}

fn version(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let home = tempfile::tempdir()?;
    let contenders = bench.pixels().chain(bench.client()).map(|(who, path)| {
        let program = Program {
            path: path.to_owned(),
            home: home.path().to_owned(),
            project: None,
            bridge: None,
            placement: None,
        };
        Contender::new(who, move || program.run(&["--version"]))
    });
    // Single runs are short, and more of them cost nothing.
    bench.compare_n(contenders.collect(), bench.runs * 5)
}

fn exec(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let contenders = bench.pixels().chain(bench.client()).map(|(who, path)| {
        let program = lab.program(path);
        let name = base(lab, who);
        Contender::new(who, move || program.run(&["exec", &name, "--", "true"]))
    });
    let raw = Contender::new(Who::Api, || {
        let begun = Instant::now();
        let code = lab.api().exec(&lab.instance("base"), &["true"])?;
        ensure!(code == 0, "true ended with {code}");
        Ok(begun.elapsed())
    });
    bench.compare_n(contenders.chain([raw]).collect(), bench.runs * 2)
}

fn exec_stdout(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let bytes = VOLUME.to_string();
    let contenders = bench.pixels().chain(bench.client()).map(|(who, path)| {
        let program = lab.program(path);
        let (name, bytes) = (base(lab, who), bytes.clone());
        Contender::new(who, move || {
            let words = ["exec", &name, "--", "head", "-c", &bytes, "/dev/zero"];
            program.drained(&words, VOLUME)
        })
    });
    bench.compare(contenders.collect())
}

fn exec_stdin(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let file = lab.file()?;
    let bytes = VOLUME.to_string();
    let contenders = bench.pixels().chain(bench.client()).map(|(who, path)| {
        let program = lab.program(path);
        let (name, bytes, file) = (base(lab, who), &bytes, &file);
        Contender::new(who, move || {
            program.fed(&["exec", &name, "--", "wc", "-c"], file, bytes)
        })
    });
    bench.compare(contenders.collect())
}

fn clone(bench: &Bench<'_>, _: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    let (name, instance) = (&lab.name("w"), &lab.instance("w"));
    let ready = &format!("{}:ready", lab.name("base"));
    let pixels = bench.pixels().map(|(who, path)| {
        let program = lab.program(path);
        Contender::new(who, move || {
            let begun = Instant::now();
            program.run(&["create", name, "--from", ready])?;
            program.run(&["exec", name, "--", "true"])?;
            let took = begun.elapsed();
            lab.api().remove(instance)?;
            Ok(took)
        })
    });
    let client = bench.client().map(|(who, path)| {
        let program = lab.program(path);
        Contender::new(who, move || {
            let source = format!("{}/ready", lab.instance("base"));
            let begun = Instant::now();
            program.run(&["copy", &source, instance])?;
            program.run(&["start", instance])?;
            program.run(&["exec", instance, "--", "true"])?;
            let took = begun.elapsed();
            lab.api().remove(instance)?;
            Ok(took)
        })
    });
    let raw = Contender::new(Who::Api, || {
        let took = raw_clone(lab, instance)?;
        lab.api().remove(instance)?;
        Ok(took)
    });
    bench.compare(pixels.chain(client).chain([raw]).collect())
}

/// Copy, wait, start, wait, and a command with its streams.
pub fn raw_clone(lab: &Lab, instance: &str) -> Result<Duration> {
    let begun = Instant::now();
    let mut api = lab.api();
    let source = format!("{}/ready", lab.instance("base"));
    let body = json!({
        "name": instance,
        "source": {"type": "copy", "source": source, "instance_only": true},
    });
    api.operate("POST", "/1.0/instances", &body)?;
    api.state(instance, "start", false)?;
    let code = api.exec(instance, &["true"])?;
    ensure!(code == 0, "true ended with {code}");
    Ok(begun.elapsed())
}

fn list(bench: &Bench<'_>, notes: &mut Vec<String>) -> Result<Outcome> {
    let lab = bench.lab()?;
    lab.base()?;
    eprintln!("making {CROWD} pixels");
    let took = lab.crowd(CROWD, RUNNING)?;
    notes.push(format!(
        "making the {CROWD} pixels of the list, {} of them running, took {:.1} s",
        RUNNING + 1,
        took.as_secs_f64()
    ));
    for (_, path) in bench.pixels() {
        let listed = lab.program(path).output(&["list", "--json"])?;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed)?;
        ensure!(listed.len() == CROWD, "a list of {}", listed.len());
    }
    let pixels = bench.pixels().map(|(who, path)| {
        let program = lab.program(path);
        Contender::new(who, move || program.run(&["list"]))
    });
    let client = bench.client().map(|(who, path)| {
        let program = lab.program(path);
        Contender::new(who, move || program.run(&["list", "-f", "csv"]))
    });
    let gateway = format!("/1.0/instances/{}", lab.gateway());
    let raw = Contender::new(Who::Api, || {
        let begun = Instant::now();
        let mut api = lab.api();
        api.call("GET", "/1.0/instances?recursion=1", None)?;
        // Where the addresses of pixels behind a gateway stand, and its state.
        api.call("GET", &gateway, None)?;
        Ok(begun.elapsed())
    });
    bench.compare(pixels.chain(client).chain([raw]).collect())
}
