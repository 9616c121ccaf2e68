//! `pixels base`

use std::sync::Arc;
use std::time::Instant;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::{Context, completions, from_settings};
use crate::base::{BaseBuilder, BaseStatus, BuildObserver};
use crate::config::Parent;
use crate::model::rfc3339;
use crate::ui::{self, Row};

/// Build and list bases, which are prepared pixels for clones
#[derive(Debug, Subcommand)]
#[command(after_help = examples!(
    "pixels base list"
    "pixels base build python"
    "pixels create work --from base-python"
))]
pub enum BaseCommand {
    /// List the configured bases and their status
    #[command(visible_alias = "ls", after_help = examples!(
        "pixels base list"
        "pixels base list --json"
    ))]
    List,
    /// Build missing bases and their missing parents
    #[command(after_help = examples!(
        "pixels base build python"
        "pixels base build python node"
    ))]
    Build(BuildArgs),
    /// Rebuild bases; an old base is kept until the new one is finished
    #[command(after_help = examples!(
        "pixels base rebuild python"
        "pixels base rebuild dev python"
    ))]
    Rebuild(BuildArgs),
    /// List bases whose script or parent has changed since their build
    #[command(after_help = examples!(
        "pixels base outdated"
        "pixels base outdated --json"
    ))]
    Outdated,
}

// A doc comment here would replace the description of the commands.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Names of bases, as shown by: pixels base list
    #[arg(required = true, value_name = "BASE", add = completions::bases())]
    bases: Vec<String>,
}

#[derive(Default, Serialize)]
struct BaseRow {
    name: String,
    status: &'static str,
    from: String,
    pixel: String,
    checkpoint: Option<String>,
    created_at: Option<String>,
    outdated: Vec<String>,
    description: String,
}

impl Row for BaseRow {
    const HEADERS: &'static [&'static str] =
        &["NAME", "STATUS", "FROM", "CHECKPOINT", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        let checkpoint = self.checkpoint.as_deref();
        let description = match self.outdated.is_empty() {
            true => self.description.clone(),
            false => self.outdated.join("; "),
        };
        vec![
            self.name.clone(),
            self.status.to_owned(),
            self.from.clone(),
            checkpoint.map_or_else(|| "—".into(), |label| format!("{}:{label}", self.pixel)),
            description,
        ]
    }
}

impl BaseCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let builder = from_settings::base_builder(context)?;
        match self {
            Self::List => {
                let rows = rows(context, &builder).await?;
                context.ui.rows(&rows, "No bases are configured.");
                Ok(())
            }
            Self::Outdated => {
                let mut rows = rows(context, &builder).await?;
                rows.retain(|row| !row.outdated.is_empty());
                context.ui.rows(&rows, "No base is outdated.");
                Ok(())
            }
            Self::Build(args) => build(context, &builder, &args.bases, false).await,
            Self::Rebuild(args) => build(context, &builder, &args.bases, true).await,
        }
    }
}

async fn rows(context: &Context, builder: &BaseBuilder) -> anyhow::Result<Vec<BaseRow>> {
    let backend = context.backend()?;
    let mut rows = Vec::new();
    for (name, base) in &builder.bases {
        let status = context
            .interruptible(builder.status(backend, name))
            .await??;
        let mut row = BaseRow {
            name: name.clone(),
            status: status.as_str(),
            from: match &base.parent {
                Parent::Image(image) => image.clone(),
                Parent::Base(parent) => parent.clone(),
            },
            pixel: builder.pixel(name)?.to_string(),
            description: base.description.clone(),
            ..BaseRow::default()
        };
        if let BaseStatus::Ready {
            checkpoint,
            created_at,
            outdated,
        } = status
        {
            row.checkpoint = Some(checkpoint.to_string());
            row.created_at = rfc3339(created_at);
            row.outdated = outdated;
        }
        rows.push(row);
    }
    Ok(rows)
}

async fn build(
    context: &Context,
    builder: &BaseBuilder,
    bases: &[String],
    rebuild: bool,
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    let ui = context.ui;
    let observer = BuildObserver {
        phase: Arc::new(move |phase| ui.status(phase)),
        output: Arc::new(move |line| ui.status(&format!("  {line}"))),
    };
    for base in bases {
        let started = Instant::now();
        let source = builder
            .build(backend, context.cancel(), base, rebuild, &observer)
            .await?;
        let elapsed = started.elapsed();
        ui.done(
            &format!(
                "Base {base} is ready after {}\n  Clone: pixels create NAME --from {source}",
                ui::elapsed(elapsed)
            ),
            &json!({
                "name": base,
                "from": source.to_string(),
                "elapsed_ms": ui::milliseconds(elapsed),
            }),
        );
    }
    Ok(())
}
