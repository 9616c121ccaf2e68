//! `pixels stop`

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions};
use crate::model::Name;

/// Time to shut down before the pixel is killed.
const GRACE: Duration = Duration::from_secs(30);

/// Stop a pixel; its disk is kept
///
/// Kills the pixel if it has not shut down after 30 seconds.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels stop box"
    "pixels stop box --force"
))]
pub struct StopArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Kill the pixel at once
    #[arg(long)]
    force: bool,
}

impl StopArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let spinner = context.ui.spinner();
        spinner.step("stopping");
        let grace = if self.force { Duration::ZERO } else { GRACE };
        let backend = context.backend()?;
        context
            .unless_interrupted(backend.stop(&self.name, grace))
            .await?;
        drop(spinner);
        context.ui.done(
            &format!("Stopped {}", self.name),
            &json!({"name": self.name.as_str(), "status": "STOPPED"}),
        );
        Ok(())
    }
}
