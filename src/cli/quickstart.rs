//! `pixels quickstart`

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Context, from_settings, prepare_host};
use crate::egress::{Mode, Policy};
use crate::lifecycle::{self, CloneNames, ForkOptions, PixelRequest, PixelSource, User};
use crate::model::{Backend, CloneSource, Error, Label, Limits, Name, Properties, lock};
use crate::ui::{self, Row};

const CLONES: usize = 2;
const GREETING: &str =
    ". /etc/os-release; echo \"Hello from $(hostname), $PRETTY_NAME, kernel $(uname -r)\"";

/// Set up the host and run a short demo
///
/// Sets up the host if necessary, then creates, checkpoints and forks a pixel and
/// prints the time of each step.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels quickstart"
    "pixels quickstart --yes --clean"
))]
pub struct QuickstartArgs {
    /// Set up the host without asking
    #[arg(short, long)]
    yes: bool,
    /// Delete the pixels at the end
    #[arg(long)]
    clean: bool,
}

#[derive(Serialize)]
struct StepRow {
    step: &'static str,
    elapsed_ms: u64,
    result: String,
}

impl StepRow {
    fn new(step: &'static str, started: Instant, result: String) -> Self {
        Self {
            step,
            elapsed_ms: ui::milliseconds(started.elapsed()),
            result,
        }
    }
}

impl Row for StepRow {
    const HEADERS: &'static [&'static str] = &["STEP", "TIME", "RESULT"];

    fn cells(&self) -> Vec<String> {
        let time = if self.elapsed_ms < 10_000 {
            format!("{} ms", self.elapsed_ms)
        } else {
            ui::elapsed(Duration::from_millis(self.elapsed_ms))
        };
        vec![self.step.into(), time, self.result.clone()]
    }
}

impl QuickstartArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        prepare_host::require_incus(context, "quickstart")?;
        let mut rows = Vec::new();
        let started = Instant::now();
        let options = from_settings::host_options(context);
        let report = prepare_host::run(context, &options, self.yes).await?;
        let result = match report.done.len() {
            0 => "was ready".to_owned(),
            1 => "1 step".to_owned(),
            steps => format!("{steps} steps"),
        };
        rows.push(StepRow::new("setup", started, result));

        let backend = context.backend()?;
        let pixels = run_demo(context, backend, &mut rows).await?;
        context.ui.rows(&rows, "");
        if self.clean {
            let deleting = pixels.iter().map(|name| backend.destroy(name));
            for outcome in futures_util::future::join_all(deleting).await {
                outcome?;
            }
            return Ok(());
        }
        if let [first, .., last] = pixels.as_slice() {
            let all = Vec::from_iter(pixels.iter().map(Name::as_str)).join(" ");
            context.ui.status(&format!(
                "\nNext steps:\n  pixels console {first}\n  pixels exec {last} -- uname -a\n  \
                 pixels checkpoint list {first}\n  pixels destroy --force {all}"
            ));
        }
        Ok(())
    }
}

/// Creates, checkpoints and forks a pixel; returns all pixel names.
async fn run_demo(
    context: &Context,
    backend: &dyn Backend,
    rows: &mut Vec<StepRow>,
) -> anyhow::Result<Vec<Name>> {
    let spinner = context.ui.spinner();
    let progress = |phase: &str| spinner.step(phase);
    let name = free_name(backend).await?;

    let started = Instant::now();
    let defaults = from_settings::instance_defaults(context, None)?;
    let image = from_settings::resolve_default_image(context, &defaults).await?;
    let result = format!("{name}, from {image}");
    let request = PixelRequest {
        name: name.clone(),
        source: PixelSource::Image(image),
        limits: Limits::default(),
        policy: Some(Policy::new(Mode::Unrestricted, [])),
        properties: Properties::new(),
    };
    let creating = defaults.create_pixel(backend, context.cancel(), request, &progress);
    creating.await?;
    rows.push(StepRow::new("create", started, result));

    let started = Instant::now();
    let greeting = context.unless_interrupted(greet(backend, &name)).await?;
    rows.push(StepRow::new("exec", started, greeting));

    let started = Instant::now();
    let label: Label = "ready".parse()?;
    spinner.step("creating a checkpoint");
    let creating = backend.checkpoint(&name, &label, None);
    context.unless_interrupted(creating).await?;
    let source = CloneSource {
        pixel: name.clone(),
        label: Some(label),
    };
    rows.push(StepRow::new("checkpoint", started, source.to_string()));

    let started = Instant::now();
    let options = ForkOptions {
        network: defaults.network,
        properties: Properties::from([("from".into(), source.to_string())]),
        names: CloneNames::Numbered {
            prefix: name.to_string(),
            count: CLONES,
        },
        from: source,
        limits: Limits::default(),
    };
    let clones = Mutex::new(Vec::new());
    let on_ready = |clone: &Name| lock(&clones).push(clone.clone());
    lifecycle::fork(backend, context.cancel(), options, &progress, &on_ready).await?;
    let clones = std::mem::take(&mut *lock(&clones));
    let names = Vec::from_iter(clones.iter().map(Name::as_str));
    rows.push(StepRow::new("fork", started, names.join(", ")));

    if let Some(last) = clones.last() {
        let started = Instant::now();
        let greeting = context.unless_interrupted(greet(backend, last)).await?;
        rows.push(StepRow::new("exec", started, greeting));
    }
    Ok([name].into_iter().chain(clones).collect())
}

/// Runs a greeting in a pixel and returns its output.
async fn greet(backend: &dyn Backend, name: &Name) -> Result<String, Error> {
    let user = User::default_for(&backend.get(name).await?);
    let guest = backend.guest(name);
    let greeting = lifecycle::run_script(&*guest, &user, "hostname", GREETING).await?;
    Ok(greeting.trim().to_owned())
}

/// Returns the first of `demo`, `demo2`, `demo3` and so on that is not in use.
async fn free_name(backend: &dyn Backend) -> Result<Name, Error> {
    let pixels = backend.list().await?;
    let used: BTreeSet<String> = pixels.iter().map(|pixel| pixel.name.to_string()).collect();
    let mut name = "demo".to_owned();
    let mut number = 1;
    while used.contains(&name) {
        number += 1;
        name = format!("demo{number}");
    }
    Ok(name.parse()?)
}
