//! Host setup with plan, confirmation and progress, for `setup` and `quickstart`.

use super::Context;
use crate::config::BackendKind;
use crate::exit::{ExitWith, Usage};
use crate::host::{self, Event, Options, Plan, Report};
use crate::ui;

/// Fails if the backend is TrueNAS: its web interface sets up the server.
pub fn require_incus(context: &Context, command: &str) -> Result<(), Usage> {
    match context.settings().backend {
        BackendKind::Incus => Ok(()),
        BackendKind::TrueNas => Err(Usage(format!(
            "pixels {command} needs an Incus server, but the settings name a TrueNAS server; \
             choose a pool for containers and create an API key in the TrueNAS web interface"
        ))),
    }
}

/// Inspects the host and plans the missing setup steps.
pub async fn plan(context: &Context, options: &Options) -> anyhow::Result<Plan> {
    let facts = context.interruptible(host::inspect(options)).await??;
    Ok(host::plan(&facts, options))
}

/// Returns every step with its reason and its exact commands.
pub fn plan_as_text(plan: &Plan) -> String {
    let mut text = String::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let (title, reason) = (&step.title, &step.reason);
        text.push_str(&format!("{}. {title} ({reason})\n", index + 1));
        for line in step.action.preview() {
            text.push_str(&format!("     {line}\n"));
        }
    }
    for warning in &plan.warnings {
        text.push_str(&format!("note: {warning}\n"));
    }
    text
}

/// Runs the missing setup steps. Without `yes`, prints the steps and asks
/// first; fails if the user declines or there is no terminal.
pub async fn run(context: &Context, options: &Options, yes: bool) -> anyhow::Result<Report> {
    if !yes {
        confirm(context, options).await?;
    }
    let spinner = context.ui.spinner();
    let ui = context.ui;
    let mut on_event = |event: Event| match event {
        Event::Waiting(lock) => {
            spinner.step(&format!("waiting for another setup ({})", lock.display()));
        }
        Event::Started(step) => spinner.step(&step.title),
        Event::Output(line) if ui.verbose => spinner.suspend(|| ui.status(&format!("  {line}"))),
        Event::Finished { id, took } if ui.verbose => {
            spinner.suspend(|| ui.status(&format!("  {id}: {}", ui::elapsed(took))));
        }
        Event::Warning(text) => spinner.suspend(|| ui.warn(&text)),
        Event::Planned(_) | Event::Output(_) | Event::Finished { .. } => {}
    };
    let setting_up = host::setup(options, &mut on_event);
    Ok(context.interruptible(setting_up).await??)
}

async fn confirm(context: &Context, options: &Options) -> anyhow::Result<()> {
    let plan = plan(context, options).await?;
    if plan.is_empty() || plan.blocked().is_some() {
        return Ok(());
    }
    context.ui.status(plan_as_text(&plan).trim_end());
    let no_terminal = "cannot ask for confirmation without a terminal; run: pixels setup --yes, or \
                       pixels setup --dry-run to print the steps";
    if !context.confirm("Run these steps?", no_terminal).await? {
        context.ui.status("Aborted.");
        return Err(ExitWith(crate::exit::FAILURE).into());
    }
    Ok(())
}
