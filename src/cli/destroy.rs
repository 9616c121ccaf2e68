//! `pixels destroy`

use std::collections::BTreeSet;

use clap::Args;
use futures_util::future::join_all;
use serde_json::json;

use super::{Context, completions, from_settings};
use crate::lifecycle;
use crate::model::Name;

/// Delete pixels with their data and checkpoints
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels destroy box"
    "pixels destroy --force box try"
))]
pub struct DestroyArgs {
    /// Names of the pixels
    #[arg(required = true, value_name = "NAME", add = completions::pixels())]
    names: Vec<Name>,
    /// Skip the confirmation prompt
    #[arg(short, long)]
    force: bool,
}

impl DestroyArgs {
    pub async fn run(mut self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        // `box` and `px-box` name the same pixel.
        let mut seen = BTreeSet::new();
        self.names.retain(|name| seen.insert(name.clone()));
        if !self.force && !self.confirm(context).await? {
            context.ui.status("Aborted.");
            return Ok(());
        }
        let spinner = context.ui.spinner();
        spinner.step("deleting");
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let deleting = join_all(
            self.names
                .iter()
                .map(|name| lifecycle::destroy(backend, &gateway_spec, name)),
        );
        let outcomes = context.interruptible(deleting).await?;
        drop(spinner);
        // Report all outcomes before failing with the first error.
        let mut first_error = None;
        for (name, outcome) in self.names.iter().zip(outcomes) {
            match outcome {
                Ok(()) => context.ui.done(
                    &format!("Destroyed {name}"),
                    &json!({"name": name.as_str(), "destroyed": true}),
                ),
                Err(error) if first_error.is_none() => first_error = Some(error),
                Err(error) => context.ui.warn(&error.to_string()),
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Asks for each pixel. Fails without a terminal or if a pixel is missing.
    async fn confirm(&self, context: &Context) -> anyhow::Result<bool> {
        for name in &self.names {
            context.get(name).await?;
            let question = format!("Destroy {name} with all its data and checkpoints?");
            let no_terminal = format!(
                "cannot ask for confirmation without a terminal; run: pixels destroy --force {name}"
            );
            if !context.confirm(&question, &no_terminal).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
