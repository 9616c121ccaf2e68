//! `pixels setup`

use clap::Args;

use super::prepare_host::{self, plan_as_text};
use super::{Context, from_settings};

/// Install and configure Incus on this host
///
/// Installs and starts Incus and creates a storage pool, a bridge and an image.
/// Whatever exists is left unchanged: a second run changes nothing.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels setup --dry-run"
    "pixels setup --yes"
))]
pub struct SetupArgs {
    /// Print every step with its exact command, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    yes: bool,
    /// Also install the incus command-line client
    #[arg(long)]
    with_client: bool,
}

impl SetupArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        prepare_host::require_incus(context, "setup")?;
        let mut options = from_settings::host_options(context);
        options.with_client = self.with_client;
        if self.dry_run {
            let plan = prepare_host::plan(context, &options).await?;
            if context.ui.json() {
                context.ui.value(&plan);
            } else if plan.is_empty() {
                context.ui.text("Nothing to do.\n");
            } else {
                context.ui.text(&plan_as_text(&plan));
            }
            return Ok(());
        }
        let report = prepare_host::run(context, &options, self.yes).await?;
        let sentence = if report.done.is_empty() {
            "Nothing to do: this host is ready."
        } else {
            "This host is ready. Next: pixels create NAME"
        };
        context.ui.done(sentence, &report);
        Ok(())
    }
}
