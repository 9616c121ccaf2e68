//! `pixels sync`

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::path_arg::PathArg;
use super::{Remote, print_warnings, progress_bar, transfer_id};
use crate::cli::{Context, completions};
use crate::exit::Usage;
use crate::lifecycle;
use crate::transfer::{self, Changes, Rules, Sync, TransferProgress};
use crate::ui;

/// Copy the differences between a local folder and a pixel
///
/// Makes DEST equal to SRC, in either direction. Files differ if their type, size,
/// mode or modification time (in seconds) differs.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels sync . box:work"
    "pixels sync --gitignore --delete . box:work"
    "pixels sync --exclude '*.o' box:work back"
    "pixels sync --dry-run . box:work"
))]
pub struct SyncArgs {
    /// Source: a local folder, or NAME:PATH
    #[arg(value_name = "SRC", add = completions::paths())]
    source: PathArg,
    /// Destination: NAME:PATH, or a local folder
    #[arg(value_name = "DEST", add = completions::paths())]
    target: PathArg,
    /// Delete files in DEST that are not in SRC
    #[arg(long)]
    delete: bool,
    /// Neither copy nor delete files that match this .gitignore pattern; repeatable
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Skip files that the .gitignore files in SRC match
    #[arg(long)]
    gitignore: bool,
    /// Print what would be copied and deleted, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Owner of the files in the pixel: user name, UID or UID:GID [default: the pixel's user]
    #[arg(long, value_name = "USER", conflicts_with = "archive")]
    owner: Option<String>,
    /// Preserve numeric owner and group
    #[arg(short, long)]
    archive: bool,
}

impl SyncArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        let (local, name, path, to_pixel) = match (self.source, self.target) {
            (PathArg::Local(local), PathArg::Pixel { name, path }) => (local, name, path, true),
            (PathArg::Pixel { name, path }, PathArg::Local(local)) => (local, name, path, false),
            _ => {
                return Err(Usage(
                    "sync needs one local folder and one NAME:PATH in a pixel".into(),
                )
                .into());
            }
        };
        let rules = Rules::new(&self.exclude, self.gitignore)?;
        let instance = context.get_running(&name).await?;
        if self.archive && to_pixel {
            lifecycle::ensure_can_set_owner(&instance)?;
        }
        let owner = self.owner.as_deref();
        let remote = Remote::open(context, &instance, &path, owner, self.archive).await?;
        let guest = remote.guest;
        let options = Sync {
            local,
            guest: remote.path,
            rules,
            delete: self.delete,
            dry_run: self.dry_run,
            ownership: remote.ownership,
            owner: remote.owner,
            id: transfer_id(),
        };
        let progress = Arc::new(TransferProgress::default());
        let bar = progress_bar(context, &progress);
        let changes = if to_pixel {
            transfer::sync_in(&*guest, context.cancel(), &options, &progress).await
        } else {
            transfer::sync_out(&*guest, context.cancel(), &options, &progress).await
        };
        drop(bar);
        print_changes(context, &changes?, self.dry_run, started);
        Ok(())
    }
}

fn print_changes(context: &Context, changes: &Changes, dry_run: bool, started: Instant) {
    print_warnings(context, &changes.report);
    if dry_run && !context.ui.json() {
        for path in &changes.removed {
            context.ui.line(&format!("delete  {path}"));
        }
        for path in &changes.transferred {
            context.ui.line(&format!("copy    {path}"));
        }
        return;
    }
    let elapsed = started.elapsed();
    let mut json = json!(changes);
    json["dry_run"] = json!(dry_run);
    json["elapsed_ms"] = json!(ui::milliseconds(elapsed));
    let sentence = format!(
        "Copied {} ({}), deleted {}, in {}",
        changes.transferred.len(),
        ui::bytes(changes.bytes),
        changes.removed.len(),
        ui::elapsed(elapsed)
    );
    context.ui.done(&sentence, &json);
}
