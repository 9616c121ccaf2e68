//! `pixels base`

use std::sync::Arc;
use std::time::Instant;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use serde::Serialize;
use serde_json::json;

use super::{Context, completions, from_settings, list};
use crate::base::{BaseBuilder, BaseStatus, BuildObserver};
use crate::config::Parent;
use crate::ui::{self, Row};

/// Prepared pixels that others are cloned from
#[derive(Debug, Subcommand)]
pub enum BaseCommand {
    /// List the bases of the configuration and what there is of them
    #[command(visible_alias = "ls")]
    List,
    Build(BuildArgs),
    Rebuild(RebuildArgs),
    /// List the bases whose recipe or parent has changed since they were built
    Outdated,
}

/// Build a base, and the bases it is made from, where they are missing
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Names of bases, as pixels base list shows them
    #[arg(required = true, value_name = "BASE", add = ArgValueCandidates::new(completions::bases))]
    bases: Vec<String>,
}

/// Build a base anew; the one before stays until the new one is finished
#[derive(Debug, Args)]
pub struct RebuildArgs {
    /// Names of bases, as pixels base list shows them
    #[arg(required = true, value_name = "BASE", add = ArgValueCandidates::new(completions::bases))]
    bases: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    status: &'static str,
    from: String,
    pixel: String,
    checkpoint: Option<String>,
    created_at: Option<String>,
    outdated: Vec<String>,
    description: String,
}

impl Row for Line {
    const HEADERS: &'static [&'static str] =
        &["NAME", "STATUS", "FROM", "CHECKPOINT", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        let checkpoint = self.checkpoint.as_deref();
        let about = match self.outdated.is_empty() {
            true => self.description.clone(),
            false => self.outdated.join("; "),
        };
        vec![
            self.name.clone(),
            self.status.to_owned(),
            self.from.clone(),
            checkpoint.map_or_else(|| "—".into(), |label| format!("{}:{label}", self.pixel)),
            about,
        ]
    }
}

impl BaseCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let base_builder = from_settings::base_builder(context)?;
        match self {
            Self::List => {
                let lines = lines(context, &base_builder).await?;
                context.ui.rows(&lines, "No bases are configured.");
                Ok(())
            }
            Self::Outdated => {
                let mut lines = lines(context, &base_builder).await?;
                lines.retain(|line| !line.outdated.is_empty());
                context.ui.rows(&lines, "No base is out of date.");
                Ok(())
            }
            Self::Build(args) => build(context, &base_builder, &args.bases, false).await,
            Self::Rebuild(args) => build(context, &base_builder, &args.bases, true).await,
        }
    }
}

async fn lines(context: &Context, base_builder: &BaseBuilder) -> anyhow::Result<Vec<Line>> {
    let backend = context.backend()?;
    let mut lines = Vec::new();
    for (name, base) in &base_builder.bases {
        let state = tokio::select! {
            biased;
            () = context.cancel().cancelled() => {
                return Err(crate::model::Error::Cancelled.into());
            }
            state = base_builder.status(backend, name) => state?,
        };
        let mut line = Line {
            name: name.clone(),
            status: state.as_str(),
            from: match &base.parent {
                Parent::Image(image) => image.clone(),
                Parent::Base(parent) => parent.clone(),
            },
            pixel: base_builder.pixel(name)?.to_string(),
            checkpoint: None,
            created_at: None,
            outdated: Vec::new(),
            description: base.description.clone(),
        };
        if let BaseStatus::Ready {
            checkpoint,
            created_at,
            outdated,
        } = state
        {
            line.checkpoint = Some(checkpoint.to_string());
            line.created_at = list::rfc3339(created_at);
            line.outdated = outdated;
        }
        lines.push(line);
    }
    Ok(lines)
}

async fn build(
    context: &Context,
    base_builder: &BaseBuilder,
    bases: &[String],
    anew: bool,
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    let ui = context.ui;
    let watch = BuildObserver {
        phase: Arc::new(move |phase| ui.status(phase)),
        output: Arc::new(move |line| ui.status(&format!("  {line}"))),
    };
    for base in bases {
        let begun = Instant::now();
        let origin = base_builder
            .build(backend, context.cancel(), base, anew, &watch)
            .await?;
        let took = begun.elapsed();
        ui.done(
            &format!(
                "Base {base} is ready after {}: pixels create NAME --from {origin}",
                ui::elapsed(took)
            ),
            &json!({
                "name": base,
                "from": origin.to_string(),
                "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }),
        );
    }
    Ok(())
}
