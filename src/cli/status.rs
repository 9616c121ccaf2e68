//! `pixels status`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, exec, from_settings};
use crate::exit::{self, ExitWith};
use crate::lifecycle::gateway::{self, Health};
use crate::lifecycle::{self, provisioning};
use crate::model::{Backend, Name};
use crate::provision::{self, Overall, Report, StepState, StepStatus};
use crate::ui::{Row, Ui};

/// Lines of a failed step's output that are shown.
const TAIL: u32 = 15;

/// Show how far the steps of provisioning are
///
/// Exit code 1 when one has failed.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Show the steps' output as it comes
    #[arg(short, long)]
    follow: bool,
    /// Return when no step is left to run
    #[arg(short, long)]
    wait: bool,
}

impl Row for StepStatus {
    const HEADERS: &'static [&'static str] = &["STEP", "STATUS", "EXIT", "TIME", "LAST OUTPUT"];

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.name.clone(),
            self.status.as_str().to_owned(),
            self.exit_code.map_or_else(dash, |code| code.to_string()),
            self.duration
                .map_or_else(dash, |seconds| format!("{seconds}s")),
            self.last_line.clone(),
        ]
    }
}

impl StatusArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let instance = context.unless_interrupted(backend.get(&self.name)).await?;
        exec::ensure_running(&instance)?;
        if self.follow {
            let guest = backend.guest(&self.name);
            let out = Box::new(tokio::io::stderr());
            context
                .unless_interrupted(provision::follow(&*guest, out))
                .await?;
        }
        let report = if self.wait || self.follow {
            wait(context, backend, &self.name).await?
        } else {
            context
                .unless_interrupted(provisioning::observe(backend, &instance))
                .await?
        };
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let look = lifecycle::is_enforced(backend, &gateway_spec, &instance);
        if context.unless_interrupted(look).await? == Some(false) {
            context.ui.warn(&format!(
                "the policy of {name} is not in force inside: pixels network set {name} puts it back",
                name = self.name
            ));
        }
        let health = match &instance.isolated_bridge {
            Some(bridge) => {
                let gateway_spec = gateway_spec.for_bridge(bridge);
                let look = gateway::recorded_health(backend, &gateway_spec);
                Some(context.unless_interrupted(look).await?)
            }
            None => None,
        };
        let cut_off = health.filter(|health| !matches!(health, Health::Good { .. }));
        show(&context.ui, &self.name, &report, cut_off.as_ref());
        if report.overall == Overall::Failed {
            return Err(ExitWith(exit::FAILURE).into());
        }
        Ok(())
    }
}

/// Waits with live progress.
pub async fn wait(context: &Context, backend: &dyn Backend, name: &Name) -> anyhow::Result<Report> {
    let phases = context.ui.phases();
    let seen = |report: &Report| {
        let running = report.steps.iter().find(|s| s.status == StepState::Running);
        if let Some(step) = running {
            let last: String = step.last_line.chars().take(60).collect();
            phases.step(&format!("{}: {last}", step.name));
        }
    };
    Ok(context
        .unless_interrupted(provisioning::wait(backend, name, &seen))
        .await?)
}

/// `cut_off`: the state of a gateway that lets nothing through.
fn show(ui: &Ui, name: &Name, report: &Report, cut_off: Option<&Health>) {
    if ui.json() {
        let mut facts = json!({
            "name": name.as_str(),
            "overall": report.overall,
            "steps": report.steps,
        });
        if let Some(health) = cut_off {
            facts["no_network"] = json!(health.name());
        }
        ui.value(&facts);
        return;
    }
    if let Some(health) = cut_off {
        ui.warn(&format!("{name} has no network: its gateway is {health}"));
    }
    ui.rows(&report.steps, &format!("{name} has no provisioning steps."));
    if let Some(step) = report.failed() {
        ui.status(&format!(
            "\n{} failed. Its output: pixels exec {name} -- cat {}\nTo try again: pixels provision {name}",
            step.name, step.log
        ));
    }
}

/// Says which step failed, with the end of its output.
pub async fn report_failure(context: &Context, name: &Name, report: &Report) -> anyhow::Result<()> {
    let Some(step) = report.failed() else {
        return Ok(());
    };
    let backend = context.backend()?;
    let guest = backend.guest(name);
    let tail = context
        .unless_interrupted(provision::log_tail(&*guest, step, TAIL))
        .await?;
    for line in tail.lines() {
        context.ui.status(&format!("  {line}"));
    }
    Err(anyhow::anyhow!(
        "the step {:?} of provisioning {name} failed with exit code {}; its output is {} in the pixel, \
         and `pixels provision {name}` tries again",
        step.name,
        step.exit_code
            .map_or_else(|| "unknown".into(), |code| code.to_string()),
        step.log
    ))
}
