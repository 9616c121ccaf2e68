//! `pixels provision`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, exec, from_settings, status};
use crate::exit::Usage;
use crate::lifecycle::provisioning;
use crate::model::Name;

/// Provision a pixel again: what is done stays, what failed or changed is run
#[derive(Debug, Args)]
pub struct ProvisionArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Return when no step is left to run
    #[arg(short, long)]
    wait: bool,
}

impl ProvisionArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let Some(plan) = from_settings::plan_from_settings(context)? else {
            return Err(Usage(
                "provisioning is switched off by provision.enabled or PIXELS_PROVISION_ENABLED"
                    .into(),
            )
            .into());
        };
        let backend = context.backend()?;
        let instance = context.unless_interrupted(backend.get(&self.name)).await?;
        exec::ensure_running(&instance)?;
        let phases = context.ui.phases();
        phases.step("provisioning");
        context
            .unless_interrupted(provisioning::apply(backend, &self.name, &plan))
            .await?;
        drop(phases);
        let mut sentence = format!("Provisioning {}", self.name);
        if self.wait {
            let report = status::wait(context, backend, &self.name).await?;
            status::report_failure(context, &self.name, &report).await?;
            sentence = format!("Provisioned {}", self.name);
        }
        context.ui.done(
            &format!("{sentence}\n  Status:   pixels status {}", self.name),
            &json!({"name": self.name.as_str(), "waited": self.wait}),
        );
        Ok(())
    }
}
