//! `pixels provision`

use clap::Args;
use serde_json::json;

use super::pixel_arg::PixelArg;
use super::{Context, from_settings, provisioning_report};
use crate::exit::Usage;
use crate::lifecycle;

/// Run failed and changed provisioning steps again
///
/// With the policy allowlist, the steps may also reach the preset of the mode
/// agent, at most 30 minutes, and the command waits until they end.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels provision box"
    "pixels provision box --wait"
))]
pub struct ProvisionArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Wait until all steps are finished; exit with 1 if a step fails
    #[arg(short, long)]
    wait: bool,
}

impl ProvisionArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let Some(plan) = from_settings::plan_from_settings(context)? else {
            return Err(Usage(
                "provisioning is disabled by provision.enabled or PIXELS_PROVISION_ENABLED".into(),
            )
            .into());
        };
        let name = &self.pixel.name;
        context.get_running(name).await?;
        let spinner = context.ui.spinner();
        spinner.step("provisioning");
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let (backend, cancel) = (context.backend()?, context.cancel());
        let lease =
            lifecycle::begin_provisioning(backend, cancel, &gateway_spec, name, &plan).await?;
        drop(spinner);
        let mut sentence = format!("Provisioning {name}");
        let waits = self.wait || lease.is_some();
        if waits {
            let report = provisioning_report::wait(context, name, lease).await?;
            provisioning_report::ensure_succeeded(context, name, &report).await?;
            sentence = format!("Provisioned {name}");
        }
        context.ui.done(
            &format!("{sentence}\n  Status:   pixels status {name}"),
            &json!({"name": name.as_str(), "waited": waits}),
        );
        Ok(())
    }
}
