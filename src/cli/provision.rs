//! `pixels provision`

use clap::Args;
use serde_json::json;

use super::pixel_arg::PixelArg;
use super::{Context, from_settings, provisioning_report};
use crate::exit::Usage;
use crate::lifecycle::provisioning;

/// Run failed and changed provisioning steps again
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
        let applying = provisioning::apply(context.backend()?, name, &plan);
        context.unless_interrupted(applying).await?;
        drop(spinner);
        let mut sentence = format!("Provisioning {name}");
        if self.wait {
            let report = provisioning_report::wait(context, name).await?;
            provisioning_report::ensure_succeeded(context, name, &report).await?;
            sentence = format!("Provisioned {name}");
        }
        context.ui.done(
            &format!("{sentence}\n  Status:   pixels status {name}"),
            &json!({"name": name.as_str(), "waited": self.wait}),
        );
        Ok(())
    }
}
