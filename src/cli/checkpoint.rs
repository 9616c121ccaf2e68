//! `pixels checkpoint`

use std::time::Instant;

use clap::{Args, Subcommand};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};
use serde::Serialize;
use serde_json::json;

use super::{Context, completions, from_settings};
use crate::exit::Usage;
use crate::lifecycle;
use crate::model::{Checkpoint, Label, Name, rfc3339};
use crate::ui::{self, Row};

/// Create, list, restore and delete checkpoints
///
/// A checkpoint is a snapshot of a pixel's disk, without memory.
#[derive(Debug, Subcommand)]
#[command(after_help = examples!(
    "pixels checkpoint create box --label ready"
    "pixels checkpoint list box"
    "pixels checkpoint restore box ready"
    "pixels create try --from box:ready"
))]
pub enum CheckpointCommand {
    Create(CreateArgs),
    #[command(visible_alias = "ls")]
    List(ListArgs),
    Restore(RestoreArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Create a checkpoint; the pixel keeps running
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels checkpoint create box"
    "pixels checkpoint create box --label ready"
))]
pub struct CreateArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Label of the checkpoint [default: date and time]
    #[arg(long)]
    label: Option<String>,
}

/// List the checkpoints of a pixel, oldest first
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels checkpoint list box"
    "pixels checkpoint list box --json"
))]
pub struct ListArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
}

/// Restore a pixel's disk; discards all changes since the checkpoint
///
/// A running pixel is restarted, and your other commands that change the pixel wait.
/// The egress policy is restored too, the expiry is not. On ZFS and TrueNAS, a
/// restore deletes newer checkpoints: it lists them and asks.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels checkpoint restore box ready"
    "pixels checkpoint restore --force box ready"
))]
pub struct RestoreArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Label of the checkpoint
    #[arg(add = ArgValueCompleter::new(completions::labels))]
    label: Label,
    /// Delete newer checkpoints without asking
    #[arg(short, long)]
    force: bool,
}

/// Delete a checkpoint
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels checkpoint delete box ready"
    "pixels cp rm box ready"
))]
pub struct DeleteArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Label of the checkpoint
    #[arg(add = ArgValueCompleter::new(completions::labels))]
    label: Label,
}

impl CheckpointCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Create(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Restore(args) => args.run(context).await,
            Self::Delete(args) => args.run(context).await,
        }
    }
}

impl CreateArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        // A script may pass an empty string for "default".
        let label = self.label.filter(|label| !label.is_empty());
        let label: Option<Label> = label.map(|label| label.parse()).transpose()?;
        let work = lifecycle::create_checkpoint(context.backend()?, &self.name, label);
        let label = context.unless_interrupted(work).await?;
        context.ui.done(
            &format!("Checkpoint \"{label}\" created for {}", self.name),
            &json!({"name": self.name.as_str(), "label": label.as_str()}),
        );
        Ok(())
    }
}

#[derive(Serialize)]
struct CheckpointRow {
    label: String,
    /// In bytes.
    size: Option<u64>,
    created_at: Option<String>,
}

impl From<Checkpoint> for CheckpointRow {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            label: checkpoint.label.to_string(),
            size: checkpoint.size,
            created_at: rfc3339(checkpoint.created_at),
        }
    }
}

impl Row for CheckpointRow {
    const HEADERS: &'static [&'static str] = &["LABEL", "SIZE", "CREATED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.label.clone(),
            self.size.map_or_else(|| "—".into(), ui::bytes),
            self.created_at.clone().unwrap_or_else(|| "—".into()),
        ]
    }
}

impl ListArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let checkpoints = context
            .unless_interrupted(backend.checkpoints(&self.name))
            .await?;
        let rows: Vec<CheckpointRow> = checkpoints
            .into_iter()
            .filter(|checkpoint| !checkpoint.temporary)
            .map(CheckpointRow::from)
            .collect();
        context
            .ui
            .rows(&rows, &format!("No checkpoints for {}.", self.name));
        Ok(())
    }
}

impl RestoreArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let started = Instant::now();
        if !self.force && !self.confirm_newer_deleted(context).await? {
            context.ui.status("Aborted.");
            return Ok(());
        }
        context
            .ui
            .status(&format!("Restoring {} to \"{}\"...", self.name, self.label));
        let spinner = context.ui.spinner();
        lifecycle::restore_or_wait(
            context.backend()?,
            context.cancel(),
            &from_settings::gateway_from_settings(context)?,
            &self.name,
            &self.label,
            &|phase| spinner.step(phase),
        )
        .await?;
        drop(spinner);
        let elapsed = started.elapsed();
        context.ui.done(
            &format!(
                "Restored {} to \"{}\" in {}",
                self.name,
                self.label,
                ui::elapsed(elapsed)
            ),
            &json!({
                "name": self.name.as_str(),
                "label": self.label.as_str(),
                "elapsed_ms": ui::milliseconds(elapsed),
            }),
        );
        Ok(())
    }

    /// Asks if the restore would delete newer checkpoints. Fails without a terminal.
    async fn confirm_newer_deleted(&self, context: &Context) -> anyhow::Result<bool> {
        let Self { name, label, .. } = self;
        let newer = context.backend()?.newer_checkpoints(name, label);
        let newer = context.unless_interrupted(newer).await?.join(", ");
        if newer.is_empty() {
            return Ok(true);
        }
        let question = format!(
            "Restoring {name} to \"{label}\" deletes its newer checkpoints: {newer}. Continue?"
        );
        let answer = context.confirm(&question).await?;
        answer.ok_or_else(|| {
            Usage(format!(
                "restoring {:?} deletes the newer checkpoints {newer}, and cannot ask for \
                 confirmation without a terminal; run: \
                 pixels checkpoint restore --force {name} {label}",
                label.as_str()
            ))
            .into()
        })
    }
}

impl DeleteArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let work = backend.delete_checkpoint(&self.name, &self.label);
        context.unless_interrupted(work).await?;
        context.ui.done(
            &format!("Deleted checkpoint \"{}\" from {}", self.label, self.name),
            &json!({"name": self.name.as_str(), "label": self.label.as_str(), "deleted": true}),
        );
        Ok(())
    }
}
