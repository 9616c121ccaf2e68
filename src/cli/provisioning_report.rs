//! Waits for provisioning with a progress line, and reports a failed step.

use super::Context;
use crate::lifecycle::{self, Lease};
use crate::model::Name;
use crate::provision::{self, Report, StepState};
use crate::ui::Spinner;

/// Number of printed output lines of a failed step.
const TAIL_LINES: u32 = 15;

/// Maximum number of characters in the progress line.
const LINE_CHARS: usize = 75;

/// Waits until all provisioning steps have finished, and ends the lease.
pub async fn wait(
    context: &Context,
    name: &Name,
    lease: Option<Lease<'_>>,
) -> anyhow::Result<Report> {
    let spinner = context.ui.spinner();
    let on_report = |report: &Report| show_progress(&spinner, report);
    let (backend, cancel) = (context.backend()?, context.cancel());
    let report = lifecycle::finish_provisioning(backend, cancel, name, lease, &on_report);
    Ok(report.await?)
}

fn show_progress(spinner: &Spinner, report: &Report) {
    if let Some(step) = report.steps.iter().find(|s| s.status == StepState::Running) {
        let line = format!("{}: {}", step.name, step.last_line);
        spinner.step(&String::from_iter(line.chars().take(LINE_CHARS)));
    }
}

/// Fails if a step failed, after printing the last output lines of the step.
pub async fn ensure_succeeded(
    context: &Context,
    name: &Name,
    report: &Report,
) -> anyhow::Result<()> {
    let Some(step) = report.failed() else {
        return Ok(());
    };
    let guest = context.backend()?.guest(name);
    let tail = context
        .unless_interrupted(provision::log_tail(&*guest, step, TAIL_LINES))
        .await?;
    for line in tail.lines() {
        context.ui.status(&format!("  {line}"));
    }
    let exit_code = step
        .exit_code
        .map_or_else(|| "unknown".into(), |code| code.to_string());
    Err(anyhow::anyhow!(
        "provisioning step {:?} of {name} failed with exit code {exit_code}; its log is {} in the \
         pixel, and `pixels provision {name}` runs it again",
        step.name,
        step.log
    ))
}
