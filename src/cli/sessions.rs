//! `pixels sessions`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{Context, completions};
use crate::lifecycle::{self, User, session};
use crate::model::Name;
use crate::ui::Row;

/// List the console sessions of a pixel
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels sessions box"
    "pixels console box --session build"
))]
pub struct SessionsArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
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
        let backend = context.backend()?;
        let instance = context.unless_interrupted(backend.get(&self.name)).await?;
        lifecycle::ensure_running(&instance)?;
        let guest = backend.guest(&self.name);
        let user = User::default_for(&instance);
        let sessions = context
            .unless_interrupted(session::list(&*guest, &user))
            .await?;
        context.ui.rows(&sessions, "No sessions.");
        Ok(())
    }
}
