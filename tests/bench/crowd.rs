//! Benchmarks with many running pixels behind one gateway.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::Lab;
use crate::measure::{Contender, Who};
use crate::network::set_policy;
use crate::report::Outcome;
use crate::rows::{Bench, compare_lists, timed_create};

/// Running pixels behind the gateways, without pixels that a row creates.
pub const MANY: usize = 400;
const FEW: usize = 10;
const FLOODER: &str = "flooder";
/// Time for a flood to reach its rate, and for the gateway to become idle.
const SETTLE: Duration = Duration::from_millis(700);

/// Two labs whose gateways differ in their number of running pixels.
pub struct Crowds {
    pub many: Lab,
    pub few: Lab,
    started: Duration,
}

impl Crowds {
    pub fn create(lab: &Lab) -> Result<Self> {
        let open = |suffix: &str, count: usize| {
            eprintln!("starting {count} pixels");
            let sibling = lab.open_sibling(suffix)?;
            sibling.base()?;
            sibling.populate(count)?;
            anyhow::Ok(sibling)
        };
        let few = open("few", FEW)?;
        let begun = Instant::now();
        let many = open("many", MANY)?;
        Ok(Self {
            many,
            few,
            started: begun.elapsed(),
        })
    }

    pub fn into_labs(self) -> [Lab; 2] {
        [self.many, self.few]
    }

    fn note(&self, bench: &Bench<'_>) -> Result<()> {
        let gateway = |lab: &Lab| anyhow::Ok(lab.memory(&lab.gateway())? / 1_000_000);
        bench.notes.borrow_mut().push(format!(
            "starting {MANY} pixels took {:.0} s; the memory of their gateway is {} MB, with {FEW} \
             pixels {} MB",
            self.started.as_secs_f64(),
            gateway(&self.many)?,
            gateway(&self.few)?,
        ));
        Ok(())
    }
}

/// Clones the base pixel behind both gateways and without a gateway.
pub fn clone(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let crowds = lab.crowds()?;
    crowds.note(bench)?;
    let contenders = [
        (Who::Pixels, &crowds.many, None),
        (Who::Few, &crowds.few, None),
        (Who::Open, &crowds.many, Some("pixel")),
    ];
    let contenders = contenders.map(|(who, lab, placement)| {
        let mut program = lab.program(&bench.binary.path);
        program.placement = placement;
        Contender::new(who, move || timed_create(lab, &program))
    });
    bench.compare(contenders.into())
}

/// Changes the policy of a running pixel behind both gateways.
pub fn policy(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let crowds = lab.crowds()?;
    let contenders = [(Who::Pixels, &crowds.many), (Who::Few, &crowds.few)]
        .map(|(who, lab)| Contender::new(who, set_policy(bench, lab)));
    bench.compare(contenders.into())
}

/// Lists running pixels.
pub fn list(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let many = &lab.crowds()?.many;
    compare_lists(bench, many, many.pixel_count()?)
}

/// Changes the policy of a pixel while another pixel sends to denied addresses.
pub fn flood_udp(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    flood(bench, lab, |_| Ok(("udp", "203.0.113.9".to_owned(), 9)))
}

/// Changes the policy of a pixel while another pixel opens allowed connections.
pub fn flood_tcp(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    let listener = TcpListener::bind((lab.crowds()?.many.host()?, 0))?;
    let at = listener.local_addr()?;
    // Ends with the benchmark.
    thread::spawn(move || listener.incoming().for_each(drop));
    flood(bench, lab, |many| {
        let rule = at.to_string();
        many.set_policy(FLOODER, &["allowlist", "--allow", &rule])?;
        Ok(("tcp", at.ip().to_string(), at.port()))
    })
}

/// Changes the policy of a pixel while another pixel sends DNS queries.
pub fn flood_dns(bench: &Bench<'_>, lab: &Lab) -> Result<Outcome> {
    flood(bench, lab, |many| {
        let gateway = Ipv4Addr::from_bits(many.subnet()? + 1);
        Ok(("dns", gateway.to_string(), 53))
    })
}

fn flood(
    bench: &Bench<'_>,
    lab: &Lab,
    target: impl FnOnce(&Lab) -> Result<(&'static str, String, u16)>,
) -> Result<Outcome> {
    let many = &lab.crowds()?.many;
    let program = many.program(&bench.binary.path);
    let (name, ready) = (many.name(FLOODER), format!("{}:ready", many.name("base")));
    let create = ["create", &name, "--from", &ready, "--egress", "allowlist"];
    program.run(&create)?;
    if program
        .run(&["exec", &name, "--", "perl", "-e", "1"])
        .is_err()
    {
        return Ok(Outcome::NotMeasured("the image has no perl".into()));
    }
    let (kind, address, port) = target(many)?;
    let (port, processes) = (
        port.to_string(),
        thread::available_parallelism()?.to_string(),
    );
    let perl = ["exec", &name, "--", "perl", "-e", include_str!("flood.pl")];
    let arguments = [kind, &address, &port, &processes];
    let words: Vec<&str> = perl.into_iter().chain(arguments).collect();
    let (mut sent, mut seconds) = (0, 0.0);
    let (mut set, set_quietly) = (set_policy(bench, many), set_policy(bench, many));
    let contenders = vec![
        Contender::new(Who::Pixels, || {
            let mut command = program.command(&words);
            let flood = Flood::start(command.stdout(Stdio::piped()).spawn()?)?;
            let begun = Instant::now();
            thread::sleep(SETTLE);
            let took = set()?;
            sent += flood.stop()?;
            seconds += begun.elapsed().as_secs_f64();
            thread::sleep(SETTLE);
            Ok(took)
        }),
        Contender::new(Who::Quiet, set_quietly),
    ];
    let outcome = bench.compare(contenders);
    let rate = sent as f64 / seconds;
    let unit = if kind == "tcp" {
        "connections"
    } else {
        "packets"
    };
    bench
        .notes
        .borrow_mut()
        .push(format!("flood-{kind}: {rate:.0} {unit} per second"));
    many.api().remove(&many.instance(FLOODER))?;
    outcome
}

/// A running `flood.pl`.
struct Flood {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Flood {
    fn start(mut child: Child) -> Result<Self> {
        let stdout = child.stdout.take().context("no stdout")?;
        let mut flood = Self {
            child,
            stdout: BufReader::new(stdout),
        };
        let mut line = String::new();
        flood.stdout.read_line(&mut line)?;
        ensure!(line == "started\n", "the flood does not start: {line}");
        Ok(flood)
    }

    /// Returns the number of packets or connections.
    fn stop(mut self) -> Result<u64> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let lines = self.stdout.by_ref().lines();
        let counts = lines.map(|line| anyhow::Ok(line?.parse::<u64>()?));
        counts.sum()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
