//! `pixels quickstart`

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Context, create, from_settings, setup};
use crate::lifecycle::{self, CloneNames, CreateOptions, ExecOptions, ForkOptions, User};
use crate::model::{Backend, CloneSource, Error, Label, Limits, Name, Properties};
use crate::ui::{self, Row};

const FORKS: usize = 2;
const SHOW: &str =
    ". /etc/os-release; echo \"Hello from $(hostname), $PRETTY_NAME, kernel $(uname -r)\"";

/// See it work: prepare the host if needed, then create, checkpoint and fork a pixel
#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// Do not ask before preparing the host
    #[arg(short, long)]
    yes: bool,
    /// Remove the pixels again at the end
    #[arg(long)]
    clean: bool,
}

#[derive(Serialize)]
struct StepRow {
    step: &'static str,
    elapsed_ms: u64,
    result: String,
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
        setup::only_incus(context, "quickstart")?;
        let mut lines = Vec::new();
        let begun = Instant::now();
        let report = setup::prepare(context, &setup::options(context), self.yes).await?;
        let result = match report.done.len() {
            0 => "was ready".to_owned(),
            1 => "1 step".to_owned(),
            steps => format!("{steps} steps"),
        };
        lines.push(row("setup", begun, result));

        let backend = context.backend()?;
        let made = run_tour(context, backend, &mut lines).await?;
        context.ui.rows(&lines, "");
        if self.clean {
            let removed = futures_util::future::join_all(made.iter().map(|n| backend.destroy(n)));
            for outcome in removed.await {
                outcome?;
            }
            return Ok(());
        }
        if let [first, .., last] = made.as_slice() {
            context.ui.status(&format!(
                "\nYours to play with:\n  pixels console {first}\n  pixels exec {last} -- uname -a\n  \
                 pixels checkpoint list {first}\n  pixels destroy --force {}",
                made.iter().map(Name::as_str).collect::<Vec<_>>().join(" ")
            ));
        }
        Ok(())
    }
}

async fn run_tour(
    context: &Context,
    backend: &dyn Backend,
    lines: &mut Vec<StepRow>,
) -> anyhow::Result<Vec<Name>> {
    let phases = context.ui.phases();
    let progress = |phase: &str| phases.step(phase);
    let name = free_name(backend).await?;

    let begun = Instant::now();
    let image = create::default_image(context).await?;
    let defaults = &context.settings().defaults;
    let options = CreateOptions {
        network: from_settings::network_from_settings(context)?,
        name: name.clone(),
        image: image.clone(),
        limits: Limits {
            cpu: defaults.cpu.clone(),
            memory: defaults.memory_mib.map(|mib| mib * 1024 * 1024),
        },
        properties: Properties::new(),
        provision: None,
    };
    lifecycle::create(backend, context.cancel(), options, &progress).await?;
    lines.push(row("create", begun, format!("{name}, from {image}")));

    let begun = Instant::now();
    let said = context.unless_interrupted(greet(backend, &name)).await?;
    lines.push(row("exec", begun, said));

    let begun = Instant::now();
    let label: Label = "ready"
        .parse()
        .map_err(|e: crate::model::InvalidName| Error::Invalid(e.to_string().into()))?;
    progress("taking a checkpoint");
    context
        .unless_interrupted(backend.checkpoint(&name, &label, None))
        .await?;
    lines.push(row("checkpoint", begun, format!("{name}:{label}")));

    let begun = Instant::now();
    let forked = Mutex::new(vec![name.clone()]);
    let ready = |fork: &Name| {
        if let Ok(mut forked) = forked.lock() {
            forked.push(fork.clone());
        }
    };
    let from = CloneSource {
        pixel: name.clone(),
        label: Some(label),
    };
    let options = ForkOptions {
        network: from_settings::network_from_settings(context)?,
        properties: Properties::from([("from".into(), from.to_string())]),
        from,
        names: CloneNames::Numbered {
            prefix: name.to_string(),
            count: FORKS,
        },
        limits: Limits::default(),
    };
    lifecycle::fork(backend, context.cancel(), options, &progress, &ready).await?;
    let made = forked.into_inner().unwrap_or_default();
    let names: Vec<&str> = made.iter().skip(1).map(Name::as_str).collect();
    lines.push(row("fork", begun, names.join(", ")));

    if let Some(last) = made.last() {
        let begun = Instant::now();
        let said = context.unless_interrupted(greet(backend, last)).await?;
        lines.push(row("exec", begun, said));
    }
    Ok(made)
}

/// Runs the greeting in a pixel.
async fn greet(backend: &dyn Backend, name: &Name) -> Result<String, Error> {
    let instance = backend.get(name).await?;
    let options = ExecOptions {
        argv: ["sh", "-c", SHOW].map(str::to_owned).to_vec(),
        user: User::default_for(&instance),
        env: Default::default(),
        cwd: None,
        tty: None,
        timeout: None,
    };
    let output = backend
        .guest(name)
        .output(&lifecycle::exec_request(&options, "quickstart"))
        .await?;
    if !output.status.success() {
        return Err(Error::Guest {
            command: "hostname".into(),
            status: output.status.0,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `demo`, or the next free one after it.
async fn free_name(backend: &dyn Backend) -> Result<Name, Error> {
    let taken: BTreeSet<String> = backend
        .list()
        .await?
        .into_iter()
        .map(|pixel| pixel.name.to_string())
        .collect();
    let mut name = "demo".to_owned();
    let mut number = 1;
    while taken.contains(&name) {
        number += 1;
        name = format!("demo{number}");
    }
    name.parse()
        .map_err(|e: crate::model::InvalidName| Error::Invalid(e.to_string().into()))
}

fn row(step: &'static str, begun: Instant, result: String) -> StepRow {
    StepRow {
        step,
        elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        result,
    }
}
