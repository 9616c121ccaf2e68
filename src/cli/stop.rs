//! `pixels stop`

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions};
use crate::model::Name;

const GRACE: Duration = Duration::from_secs(30);

/// Stop a pixel; it keeps its disk
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Kill it instead of asking it to shut down
    #[arg(long)]
    force: bool,
}

impl StopArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let phases = context.ui.phases();
        phases.step("stopping");
        let grace = if self.force { Duration::ZERO } else { GRACE };
        let backend = context.backend()?;
        context
            .unless_interrupted(backend.stop(&self.name, grace))
            .await?;
        drop(phases);
        context.ui.done(
            &format!("Stopped {}", self.name),
            &json!({"name": self.name.as_str(), "status": "STOPPED"}),
        );
        Ok(())
    }
}
