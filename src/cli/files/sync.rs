//! `pixels sync`

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::json;

use super::path_arg::PathArg;
use super::{login, ownership, progress_bar, running_or_stopped, unique, warn};
use crate::cli::{Context, completions};
use crate::exit::Usage;
use crate::transfer::{self, Changes, GuestPath, Rules, Sync, TransferProgress};
use crate::ui;

/// Make one folder like another, between here and a pixel, by copying what differs
///
/// What is in SRC comes to be in DEST, in either direction. Files differ when
/// their kind, size, mode or time of change (in seconds) do.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// A folder here, or NAME:PATH
    #[arg(value_name = "SRC", add = ArgValueCompleter::new(completions::places))]
    source: PathArg,
    /// NAME:PATH, or a folder here
    #[arg(value_name = "DEST", add = ArgValueCompleter::new(completions::places))]
    target: PathArg,
    /// Remove what is in DEST and not in SRC
    #[arg(long)]
    delete: bool,
    /// Leave out, and never remove, what this pattern matches, as in .gitignore
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave out what the .gitignore files in SRC name
    #[arg(long)]
    gitignore: bool,
    /// Only say what would be copied and removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// User name, number or UID:GID the files belong to in the pixel, by default its own user
    #[arg(long, value_name = "USER", conflicts_with = "archive")]
    owner: Option<String>,
    /// Keep the numbers of owner and group
    #[arg(short, long)]
    archive: bool,
}

impl SyncArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let begun = Instant::now();
        let inward = matches!(self.target, PathArg::Pixel { .. });
        let (local, remote) = if inward {
            (self.source, self.target)
        } else {
            (self.target, self.source)
        };
        if matches!(local, PathArg::Pixel { .. }) || matches!(remote, PathArg::Here(_)) {
            return Err(
                Usage("sync is between a folder here and NAME:PATH in a pixel".into()).into(),
            );
        }
        let local = local.into_local("the folder here")?;
        let (name, path) = remote.into_pixel("the other side")?;
        let rules = Rules::new(&self.exclude, self.gitignore)?;
        let instance = running_or_stopped(context, &name).await?;
        crate::cli::exec::ensure_running(&instance)?;
        let guest = context.backend()?.guest(&name);
        let (home, owner) = login(context, &*guest, &instance, self.owner.as_deref()).await?;
        let options = Sync {
            local,
            guest: GuestPath::parse(&path, &home.home)?,
            rules,
            delete: self.delete,
            dry_run: self.dry_run,
            ownership: ownership(self.archive, &owner),
            owner: owner.ids,
            id: unique(),
        };
        let meter = Arc::new(TransferProgress::default());
        let bar = progress_bar(context, &meter);
        let changes = if inward {
            transfer::sync_in(&*guest, context.cancel(), &options, &meter).await
        } else {
            transfer::sync_out(&*guest, context.cancel(), &options, &meter).await
        };
        drop(bar);
        report_changes(context, &changes?, self.dry_run, begun);
        Ok(())
    }
}

fn report_changes(context: &Context, changes: &Changes, dry_run: bool, begun: Instant) {
    warn(context, &changes.report);
    if dry_run && !context.ui.json() {
        for path in &changes.removed {
            context.ui.text(&format!("remove  {path}\n"));
        }
        for path in &changes.transferred {
            context.ui.text(&format!("copy    {path}\n"));
        }
        return;
    }
    let took = begun.elapsed();
    let mut facts = json!(changes);
    facts["dry_run"] = json!(dry_run);
    facts["elapsed_ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let sentence = format!(
        "Copied {} ({}), removed {}, in {}",
        changes.transferred.len(),
        ui::bytes(changes.bytes),
        changes.removed.len(),
        ui::elapsed(took)
    );
    context.ui.done(&sentence, &facts);
}
