//! `pixels provision`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, from_settings, provisioning_report};
use crate::exit::Usage;
use crate::lifecycle::{self, provisioning};
use crate::model::Name;

/// Run failed and changed provisioning steps again
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels provision box"
    "pixels provision box --wait"
))]
pub struct ProvisionArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
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
        let backend = context.backend()?;
        let instance = context.unless_interrupted(backend.get(&self.name)).await?;
        lifecycle::ensure_running(&instance)?;
        let spinner = context.ui.spinner();
        spinner.step("provisioning");
        context
            .unless_interrupted(provisioning::apply(backend, &self.name, &plan))
            .await?;
        drop(spinner);
        let mut sentence = format!("Provisioning {}", self.name);
        if self.wait {
            let report = provisioning_report::wait(context, &self.name).await?;
            provisioning_report::ensure_succeeded(context, &self.name, &report).await?;
            sentence = format!("Provisioned {}", self.name);
        }
        context.ui.done(
            &format!("{sentence}\n  Status:   pixels status {}", self.name),
            &json!({"name": self.name.as_str(), "waited": self.wait}),
        );
        Ok(())
    }
}
