//! `pixels prune`

use clap::Args;
use serde::Serialize;

use super::{Context, from_settings};
use crate::lifecycle::{self, Orphan};
use crate::ui::Row;

/// Remove what killed commands left half-made and what has expired, and nothing else
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct PruneRow {
    #[serde(flatten)]
    leftover: Orphan,
    removed: bool,
}

impl Row for PruneRow {
    const HEADERS: &'static [&'static str] = &["LEFTOVER", "REMOVED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.leftover.to_string(),
            if self.removed { "yes" } else { "no" }.into(),
        ]
    }
}

impl PruneArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let found = context
            .unless_interrupted(lifecycle::find_orphans(backend, &gateway_spec))
            .await?;
        let mut lines = Vec::new();
        let mut failed = None;
        for leftover in found {
            let mut removed = false;
            if !self.dry_run {
                let work = lifecycle::remove_orphan(backend, &gateway_spec, &leftover);
                match context.unless_interrupted(work).await {
                    Ok(()) => removed = true,
                    // The others are still worth removing.
                    Err(error) => failed = Some(error),
                }
            }
            lines.push(PruneRow { leftover, removed });
        }
        context.ui.rows(&lines, "Nothing to prune.");
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}
