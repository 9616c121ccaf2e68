//! `pixels setup`

use clap::Args;

use super::Context;
use crate::backend;
use crate::config::{BackendKind, Origin};
use crate::exit::{ExitWith, Usage};
use crate::host::{self, Event, Report};
use crate::model::Error;
use crate::ui;

/// Prepare this host: install and start Incus, make its storage, network and image
///
/// What exists is left as it is; a second run has nothing to do.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Install the incus command as well
    #[arg(long)]
    with_client: bool,
}

impl SetupArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        only_incus(context, "setup")?;
        let mut options = options(context);
        options.with_client = self.with_client;
        if self.dry_run {
            let work = host::inspect(&options);
            let facts = interruptible(context, async { Ok(work.await?) }).await?;
            let plan = host::plan(&facts, &options);
            if context.ui.json() {
                context.ui.value(&plan);
            } else if plan.is_empty() {
                context.ui.text("Nothing to do.\n");
            } else {
                context.ui.text(&plan_as_text(&plan));
            }
            return Ok(());
        }
        let report = prepare(context, &options, self.yes).await?;
        let sentence = if report.done.is_empty() {
            "Nothing to do: this host is ready.".to_owned()
        } else {
            "This host is ready. Next: pixels create NAME".to_owned()
        };
        context.ui.done(&sentence, &report);
        Ok(())
    }
}

/// TrueNAS is set up in its own web interface.
pub fn only_incus(context: &Context, command: &str) -> Result<(), Usage> {
    match context.settings().backend {
        BackendKind::Incus => Ok(()),
        BackendKind::TrueNas => Err(Usage(format!(
            "pixels {command} prepares an Incus server, and the settings name a TrueNAS: choose a \
             pool for containers in its web interface, and make an API key there"
        ))),
    }
}

/// Every step with its reason and exactly what is done.
fn plan_as_text(plan: &host::Plan) -> String {
    let mut text = String::new();
    for (number, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!(
            "{}. {} ({})\n",
            number + 1,
            step.title,
            step.reason
        ));
        for line in step.action.preview() {
            text.push_str(&format!("     {line}\n"));
        }
    }
    for warning in &plan.warnings {
        text.push_str(&format!("note: {warning}\n"));
    }
    text
}

/// What the settings ask of a host.
pub fn options(context: &Context) -> host::Options {
    let settings = context.settings();
    let incus = backend::incus_options(settings);
    let mut options = host::Options::new(
        incus.endpoint,
        settings.defaults.image.clone(),
        incus.image_server,
    );
    options.project = incus.project;
    options.pool = incus.placement.pool;
    // A host interface named by the user stands in for a network of Incus's own.
    options.network = incus.placement.network.or(incus.placement.parent);
    options.image_is_default = image_is_default(context);
    options
}

/// Nobody chose an image.
pub fn image_is_default(context: &Context) -> bool {
    context.loaded.origin("defaults.image") == Some(&Origin::Default)
}

/// Shows what will be done, asks unless told not to, and does it.
pub async fn prepare(
    context: &Context,
    options: &host::Options,
    yes: bool,
) -> anyhow::Result<Report> {
    if !yes {
        let facts = interruptible(context, async { Ok(host::inspect(options).await?) }).await?;
        let plan = host::plan(&facts, options);
        if !plan.is_empty() && plan.blocked().is_none() {
            context.ui.status(plan_as_text(&plan).trim_end());
            match context.confirm("Do this?").await? {
                Some(true) => {}
                Some(false) => {
                    context.ui.status("Aborted.");
                    return Err(ExitWith(crate::exit::FAILURE).into());
                }
                None => {
                    return Err(Usage(
                        "setup asks before it changes this host, and there is no terminal to ask on: \
                         use --yes, or --dry-run to see what it would do"
                            .into(),
                    )
                    .into());
                }
            }
        }
    }
    let phases = context.ui.phases();
    let view = context.ui;
    let mut show = |event: Event| match event {
        Event::Waiting(lock) => {
            phases.step(&format!("waiting for another setup ({})", lock.display()));
        }
        Event::Planned(_) => {}
        Event::Started(step) => phases.step(&step.title),
        Event::Output(line) if view.verbose => phases.above(|| view.status(&format!("  {line}"))),
        Event::Output(_) => {}
        Event::Finished { id, took } if view.verbose => {
            phases.above(|| view.status(&format!("  {id}: {}", ui::elapsed(took))));
        }
        Event::Finished { .. } => {}
        Event::Warning(text) => phases.above(|| view.warn(&text)),
    };
    let work = host::setup(options, &mut show);
    let outcome = interruptible(context, async { Ok(work.await?) }).await;
    drop(phases);
    outcome
}

async fn interruptible<T>(
    context: &Context,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        biased;
        () = context.cancel().cancelled() => Err(Error::Cancelled.into()),
        outcome = work => outcome,
    }
}
