//! `pixels status`

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::pixel_arg::PixelArg;
use super::{Context, from_settings, provisioning_report};
use crate::exit::{self, ExitWith};
use crate::lifecycle::gateway::{self, Health};
use crate::lifecycle::{self, expiry, provisioning};
use crate::model::{Error, Instance};
use crate::provision::{self, Overall, Report, StepStatus};
use crate::term::PlainWriter;
use crate::ui::{Row, Ui};

/// Show the provisioning progress of a pixel
///
/// Exits with 1 if a step has failed.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels status box"
    "pixels status box --follow"
    "pixels status box --wait --json"
))]
pub struct StatusArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Stream the output of the steps to stderr until they are finished
    #[arg(short, long)]
    follow: bool,
    /// Wait until all steps are finished
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
        let name = &self.pixel.name;
        let backend = context.backend()?;
        let instance = context.get_running(name).await?;
        if self.follow {
            let guest = backend.guest(name);
            let stderr = PlainWriter::stderr().map_err(|e| Error::io("opening stderr", e))?;
            let following = provision::follow(&*guest, Box::new(stderr));
            context.unless_interrupted(following).await?;
        }
        let report = if self.wait || self.follow {
            provisioning_report::wait(context, name, None).await?
        } else {
            let observing = provisioning::observe(backend, &instance);
            context.unless_interrupted(observing).await?
        };
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let enforced = lifecycle::is_enforced(backend, &gateway_spec, &instance);
        if context.unless_interrupted(enforced).await? == Some(false) {
            context.ui.warn(&format!(
                "the pixel does not enforce its policy; run: pixels network set {name} {}",
                lifecycle::recorded_policy(&instance)?.mode
            ));
        }
        let lease = lifecycle::lease(backend, &gateway_spec, &instance);
        let lease = context.unless_interrupted(lease).await?;
        if lease.is_none()
            && report.overall == Overall::Running
            && lifecycle::policy_during_lease(&instance)?.is_some()
        {
            context.ui.warn(&format!(
                "provisioning runs without a lease, so downloads that the policy denies fail; \
                 run: pixels provision {name}"
            ));
        }
        let health = match &instance.isolated_bridge {
            Some(bridge) => {
                let gateway_spec = gateway_spec.for_bridge(bridge);
                let health = gateway::recorded_health(backend, &gateway_spec);
                Some(context.unless_interrupted(health).await?)
            }
            None => None,
        };
        let defect = health.filter(|health| !matches!(health, Health::Good { .. }));
        print_report(&context.ui, &instance, &report, lease, defect.as_ref());
        if report.overall == Overall::Failed {
            return Err(ExitWith(exit::FAILURE).into());
        }
        Ok(())
    }
}

/// `gateway_defect`: health of the gateway if the pixel has no network.
fn print_report(
    ui: &Ui,
    pixel: &Instance,
    report: &Report,
    lease: Option<Duration>,
    gateway_defect: Option<&Health>,
) {
    let name = &pixel.name;
    if ui.json() {
        let mut json = json!({
            "name": name.as_str(),
            "cpu": pixel.cpu,
            "memory": pixel.memory,
            "disk": pixel.disk,
            "overall": report.overall,
            "steps": report.steps,
        });
        if let Some(remaining) = lease {
            json["lease_until"] = json!(expiry::after(remaining));
        }
        if let Some(health) = gateway_defect {
            json["no_network"] = json!(health.name());
        }
        ui.value(&json);
        return;
    }
    if let Some(health) = gateway_defect {
        ui.warn(&format!("{name} has no network: its gateway is {health}"));
    }
    ui.rows(&report.steps, &format!("{name} has no provisioning steps."));
    if lease.is_some() {
        ui.status("A provisioning lease allows the preset rules too until provisioning ends.");
    }
    if let Some(step) = report.failed() {
        ui.status(&format!(
            "\n{} failed. Show its output: pixels exec {name} -- cat {}\n\
             Run it again: pixels provision {name}",
            step.name, step.log
        ));
    }
}
