//! `pixels checkpoint`

use std::time::Instant;

use clap::{Args, Subcommand};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;

use super::{Context, completions, from_settings, list};
use crate::exit::Usage;
use crate::lifecycle;
use crate::model::{Checkpoint, Error, Label, Name};
use crate::ui::{self, Row};

/// Take, list, restore and delete checkpoints of a pixel's disk
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    Create(CreateArgs),
    #[command(visible_alias = "ls")]
    List(ListArgs),
    Restore(RestoreArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Take a checkpoint; the pixel runs on
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Label of the checkpoint, by default the time
    #[arg(long)]
    label: Option<String>,
}

/// List the checkpoints of a pixel, oldest first
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
}

/// Put a pixel's disk back to a checkpoint; what came after is lost
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Label of the checkpoint
    #[arg(add = ArgValueCompleter::new(completions::labels))]
    label: Label,
    /// Do not ask where newer checkpoints would be lost
    #[arg(short, long)]
    force: bool,
}

/// Delete a checkpoint
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Name of the pixel; px-NAME is the same
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
        // Empty is what an unset variable of a script leaves.
        let given = self.label.filter(|label| !label.is_empty());
        let given: Option<Label> = given.map(|label| label.parse()).transpose()?;
        let backend = context.backend()?;
        let mut taken = 0;
        let label = loop {
            let label = match &given {
                Some(label) => label.clone(),
                None => label_of_now(taken)?,
            };
            let work = backend.checkpoint(&self.name, &label, None);
            match context.unless_interrupted(work).await {
                Err(Error::AlreadyExists(_)) if given.is_none() && taken < CROWD => taken += 1,
                outcome => {
                    outcome?;
                    break label;
                }
            }
        };
        context.ui.done(
            &format!("Checkpoint \"{label}\" created for {}", self.name),
            &json!({"name": self.name.as_str(), "label": label.as_str()}),
        );
        Ok(())
    }
}

/// So many labels are tried for one second.
const CROWD: u32 = 100;

/// The present second, which `taken` checkpoints have already.
fn label_of_now(taken: u32) -> Result<Label, Error> {
    let now = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
    let format = format_description!("px-[year][month][day]-[hour][minute][second]");
    let second = now
        .format(format)
        .map_err(|e| Error::Invalid(e.to_string().into()))?;
    match taken {
        0 => second,
        taken => format!("{second}-{}", taken + 1),
    }
    .parse()
    .map_err(|e: crate::model::InvalidName| Error::Invalid(e.to_string().into()))
}

#[derive(Serialize)]
struct Line {
    label: String,
    /// Bytes.
    size: Option<u64>,
    created_at: Option<String>,
}

impl From<Checkpoint> for Line {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            label: checkpoint.label.to_string(),
            size: checkpoint.size,
            created_at: list::rfc3339(checkpoint.created_at),
        }
    }
}

impl Row for Line {
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
        let all = context
            .unless_interrupted(backend.checkpoints(&self.name))
            .await?;
        let lines: Vec<Line> = all
            .into_iter()
            .filter(|checkpoint| !checkpoint.temporary)
            .map(Line::from)
            .collect();
        context
            .ui
            .rows(&lines, &format!("No checkpoints for {}.", self.name));
        Ok(())
    }
}

impl RestoreArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let begun = Instant::now();
        let backend = context.backend()?;
        if !self.force && !self.confirm_newer_deleted(context).await? {
            context.ui.status("Aborted.");
            return Ok(());
        }
        context
            .ui
            .status(&format!("Restoring {} to \"{}\"...", self.name, self.label));
        let phases = context.ui.phases();
        phases.step("restoring");
        let before = context.unless_interrupted(backend.get(&self.name)).await?;
        let outcome = context
            .unless_interrupted(lifecycle::restore(
                backend,
                &from_settings::gateway_from_settings(context)?,
                &self.name,
                &self.label,
            ))
            .await;
        if matches!(outcome, Err(Error::Cancelled)) {
            // The server goes on by itself; the pixel is whole when it is done.
            phases.step("waiting for the server to finish the restore");
            backend.wait_idle(&self.name).await?;
            lifecycle::expiry::restore_expiry(backend, &before).await?;
        }
        outcome?;
        drop(phases);
        let took = begun.elapsed();
        context.ui.done(
            &format!(
                "Restored {} to \"{}\" in {}",
                self.name,
                self.label,
                ui::elapsed(took)
            ),
            &json!({
                "name": self.name.as_str(),
                "label": self.label.as_str(),
                "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }),
        );
        Ok(())
    }
}

impl RestoreArgs {
    /// Asks where the server keeps no checkpoint that is newer.
    async fn confirm_newer_deleted(&self, context: &Context) -> anyhow::Result<bool> {
        let Self { name, label, .. } = self;
        let asking = context.backend()?.newer_checkpoints(name, label);
        let lost = context.unless_interrupted(asking).await?;
        if lost.is_empty() {
            return Ok(true);
        }
        let lost = lost.join(", ");
        let question = format!(
            "Restoring {name} to \"{label}\" destroys its newer checkpoints: {lost}. Go on?"
        );
        let answer = context.confirm(&question).await?;
        answer.ok_or_else(|| {
            Usage(format!(
                "a restore to {label:?} destroys the newer checkpoints {lost}, and there is no \
                 terminal to ask on: pixels checkpoint restore --force {name} {label}",
                label = label.as_str()
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
