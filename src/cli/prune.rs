//! `pixels prune`

use clap::Args;
use serde::Serialize;

use super::{Context, from_settings};
use crate::lifecycle::{self, Orphan};
use crate::ui::Row;

/// Delete expired pixels and leftovers of interrupted commands
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels prune --dry-run"
    "pixels prune"
))]
pub struct PruneArgs {
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct PruneRow {
    #[serde(flatten)]
    orphan: Orphan,
    removed: bool,
}

impl Row for PruneRow {
    const HEADERS: &'static [&'static str] = &["LEFTOVER", "DELETED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.orphan.to_string(),
            if self.removed { "yes" } else { "no" }.into(),
        ]
    }
}

impl PruneArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let orphans = context
            .unless_interrupted(lifecycle::find_orphans(backend, &gateway_spec))
            .await?;
        let mut rows = Vec::new();
        let mut last_error = None;
        for orphan in orphans {
            let mut removed = false;
            if !self.dry_run {
                let work = lifecycle::remove_orphan(backend, &gateway_spec, &orphan);
                match context.unless_interrupted(work).await {
                    Ok(()) => removed = true,
                    // Delete the other leftovers too.
                    Err(error) => last_error = Some(error),
                }
            }
            rows.push(PruneRow { orphan, removed });
        }
        context.ui.rows(&rows, "Nothing to prune.");
        last_error.map_or(Ok(()), |error| Err(error.into()))
    }
}
