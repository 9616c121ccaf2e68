//! `pixels checkpoint`

use std::time::Instant;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::pixel_arg::PixelArg;
use super::{Context, completions, from_settings};
use crate::lifecycle;
use crate::model::{Label, Name, rfc3339};
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
    /// Create a checkpoint; the pixel keeps running
    #[command(after_help = examples!(
        "pixels checkpoint create box"
        "pixels checkpoint create box --label ready"
    ))]
    Create {
        #[command(flatten)]
        pixel: PixelArg,
        /// Label of the checkpoint [default: date and time]
        #[arg(long)]
        label: Option<String>,
    },
    /// List the checkpoints of a pixel, oldest first
    #[command(visible_alias = "ls", after_help = examples!(
        "pixels checkpoint list box"
        "pixels checkpoint list box --json"
    ))]
    List(PixelArg),
    /// Restore a pixel's disk; discards all changes since the checkpoint
    ///
    /// A running pixel is restarted, and your other commands that change the pixel wait.
    /// The egress policy is restored too, the expiry is not. On ZFS and TrueNAS, a
    /// restore deletes newer checkpoints: it lists them and asks.
    #[command(after_help = examples!(
        "pixels checkpoint restore box ready"
        "pixels checkpoint restore --force box ready"
    ))]
    Restore {
        #[command(flatten)]
        checkpoint: CheckpointArgs,
        /// Delete newer checkpoints without asking
        #[arg(short, long)]
        force: bool,
    },
    /// Delete a checkpoint
    #[command(visible_alias = "rm", after_help = examples!(
        "pixels checkpoint delete box ready"
        "pixels cp rm box ready"
    ))]
    Delete(CheckpointArgs),
}

// A doc comment here would replace the description of the commands.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Label of the checkpoint
    #[arg(add = completions::labels())]
    label: Label,
}

impl CheckpointCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Create { pixel, label } => create(context, &pixel.name, label).await,
            Self::List(pixel) => list(context, &pixel.name).await,
            Self::Restore { checkpoint, force } => checkpoint.restore(context, force).await,
            Self::Delete(checkpoint) => checkpoint.delete(context).await,
        }
    }
}

async fn create(context: &Context, name: &Name, label: Option<String>) -> anyhow::Result<()> {
    // Scripts may pass an empty string to use the default.
    let label = label.filter(|label| !label.is_empty());
    let label: Option<Label> = label.map(|label| label.parse()).transpose()?;
    let work = lifecycle::create_checkpoint(context.backend()?, name, label);
    let label = context.unless_interrupted(work).await?;
    context.ui.done(
        &format!("Checkpoint \"{label}\" created for {name}"),
        &json!({"name": name.as_str(), "label": label.as_str()}),
    );
    Ok(())
}

#[derive(Serialize)]
struct CheckpointRow {
    label: String,
    /// Size in bytes.
    size: Option<u64>,
    created_at: Option<String>,
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

async fn list(context: &Context, name: &Name) -> anyhow::Result<()> {
    let checkpoints = context.backend()?.checkpoints(name);
    let checkpoints = context.unless_interrupted(checkpoints).await?.into_iter();
    let rows = checkpoints.filter(|checkpoint| !checkpoint.temporary);
    let rows = rows.map(|checkpoint| CheckpointRow {
        label: checkpoint.label.to_string(),
        size: checkpoint.size,
        created_at: rfc3339(checkpoint.created_at),
    });
    let empty = format!("No checkpoints for {name}.");
    context.ui.rows(&Vec::from_iter(rows), &empty);
    Ok(())
}

impl CheckpointArgs {
    async fn restore(self, context: &Context, force: bool) -> anyhow::Result<()> {
        let started = Instant::now();
        if !force && !self.confirm_newer_deleted(context).await? {
            context.ui.status("Aborted.");
            return Ok(());
        }
        let (name, label) = (&self.pixel.name, &self.label);
        context
            .ui
            .status(&format!("Restoring {name} to \"{label}\"..."));
        let spinner = context.ui.spinner();
        lifecycle::restore_or_wait(
            context.backend()?,
            context.cancel(),
            &from_settings::gateway_from_settings(context)?,
            name,
            label,
            &|phase| spinner.step(phase),
        )
        .await?;
        drop(spinner);
        let elapsed = started.elapsed();
        context.ui.done(
            &format!("Restored {name} to \"{label}\" in {}", ui::elapsed(elapsed)),
            &json!({
                "name": name.as_str(),
                "label": label.as_str(),
                "elapsed_ms": ui::milliseconds(elapsed),
            }),
        );
        Ok(())
    }

    /// Asks if newer checkpoints would be deleted. Fails without a terminal.
    async fn confirm_newer_deleted(&self, context: &Context) -> anyhow::Result<bool> {
        let (name, label) = (&self.pixel.name, &self.label);
        let newer = context.backend()?.newer_checkpoints(name, label);
        let newer = context.unless_interrupted(newer).await?.join(", ");
        if newer.is_empty() {
            return Ok(true);
        }
        let question = format!(
            "Restoring {name} to \"{label}\" deletes its newer checkpoints: {newer}. Continue?"
        );
        let no_terminal = format!(
            "restoring {:?} deletes the newer checkpoints {newer}, and cannot ask for \
             confirmation without a terminal; run: \
             pixels checkpoint restore --force {name} {label}",
            label.as_str()
        );
        context.confirm(&question, &no_terminal).await
    }

    async fn delete(self, context: &Context) -> anyhow::Result<()> {
        let (name, label) = (&self.pixel.name, &self.label);
        let deleting = context.backend()?.delete_checkpoint(name, label);
        context.unless_interrupted(deleting).await?;
        context.ui.done(
            &format!("Deleted checkpoint \"{label}\" from {name}"),
            &json!({"name": name.as_str(), "label": label.as_str(), "deleted": true}),
        );
        Ok(())
    }
}
