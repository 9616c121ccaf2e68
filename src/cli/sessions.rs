//! `pixels sessions`

use clap::Args;

use super::Context;
use super::pixel_arg::PixelArg;
use crate::lifecycle::{User, session};
use crate::ui::Row;

/// List the console sessions of a pixel
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels sessions box"
    "pixels console box --session build"
))]
pub struct SessionsArgs {
    #[command(flatten)]
    pixel: PixelArg,
}

impl Row for session::Session {
    const HEADERS: &'static [&'static str] = &["SESSION", "STATUS", "CLIENTS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            if self.running { "running" } else { "exited" }.to_owned(),
            self.clients.map_or_else(|| "-".into(), |n| n.to_string()),
        ]
    }
}

impl SessionsArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let instance = context.get_running(&self.pixel.name).await?;
        let guest = context.backend()?.guest(&self.pixel.name);
        let user = User::default_for(&instance);
        let listing = session::list(&*guest, &user);
        let sessions = context.unless_interrupted(listing).await?;
        context.ui.rows(&sessions, "No sessions.");
        Ok(())
    }
}
