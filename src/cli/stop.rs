//! `pixels stop`

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::Context;
use super::pixel_arg::PixelArg;

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
    #[command(flatten)]
    pixel: PixelArg,
    /// Kill the pixel at once
    #[arg(long)]
    force: bool,
}

impl StopArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = &self.pixel.name;
        let spinner = context.ui.spinner();
        spinner.step("stopping");
        let grace = if self.force { Duration::ZERO } else { GRACE };
        let stopping = context.backend()?.stop(name, grace);
        context.unless_interrupted(stopping).await?;
        drop(spinner);
        context.ui.done(
            &format!("Stopped {name}"),
            &json!({"name": name.as_str(), "status": "STOPPED"}),
        );
        Ok(())
    }
}
