//! `pixels destroy`

use std::collections::BTreeSet;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use futures_util::future::join_all;
use serde_json::json;

use super::{Context, completions, from_settings};
use crate::exit::Usage;
use crate::lifecycle;
use crate::model::Name;

/// Delete pixels with everything in them, checkpoints included
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Names of the pixels
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(completions::pixels))]
    names: Vec<Name>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl DestroyArgs {
    pub async fn run(mut self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        // `box` and `px-box` are one.
        let mut seen = BTreeSet::new();
        self.names.retain(|name| seen.insert(name.clone()));
        for name in &self.names {
            if !self.force {
                // Ask about what is there, not about a slip of the finger.
                context.unless_interrupted(backend.get(name)).await?;
                let question = format!("Destroy {name} with all its data and checkpoints?");
                match context.confirm(&question).await? {
                    Some(true) => {}
                    Some(false) => {
                        context.ui.status("Aborted.");
                        return Ok(());
                    }
                    None => {
                        return Err(Usage(format!(
                            "destroy asks before it deletes, and there is no terminal to ask on: \
                             pixels destroy --force {name}"
                        ))
                        .into());
                    }
                }
            }
        }
        let phases = context.ui.phases();
        phases.step("destroying");
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let all = join_all(
            self.names
                .iter()
                .map(|name| lifecycle::destroy(backend, &gateway_spec, name)),
        );
        let outcomes = context.unless_interrupted(async { Ok(all.await) }).await?;
        drop(phases);
        // Every one that went is told of, also when another failed.
        let mut failed = None;
        for (name, outcome) in self.names.iter().zip(outcomes) {
            match outcome {
                Ok(()) => context.ui.done(
                    &format!("Destroyed {name}"),
                    &json!({"name": name.as_str(), "destroyed": true}),
                ),
                Err(error) if failed.is_none() => failed = Some(error),
                Err(error) => context.ui.warn(&error.to_string()),
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}
