//! `pixels doctor`

mod checks;
mod walls;

use clap::Args;

use super::Context;

/// Diagnose the host and suggest a fix for each problem
///
/// Exit codes: 0 no problems, 1 warnings, 2 problems. With --walls: 0 all attempts
/// blocked, 1 attempts without proof or an error, 2 an attempt got out.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels doctor"
    "pixels doctor --json"
    "pixels doctor --walls"
))]
pub struct DoctorArgs {
    /// Try to bypass the egress policy from a temporary pixel
    #[arg(long)]
    walls: bool,
}

impl DoctorArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.walls {
            true => walls::run(context).await,
            false => checks::run(context).await,
        }
    }
}
