//! `pixels fork`

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Context, completions, duration_arg, from_settings};
use crate::lifecycle::{self, CloneNames, ForkOptions, expiry};
use crate::model::{CloneSource, Limits, Name};

/// Create several clones of a pixel or a checkpoint
///
/// Creates PREFIX-1, PREFIX-2 and so on in parallel; numbers in use are skipped.
/// Prints each name as soon as that clone is ready. If a clone fails, all clones of
/// the command are deleted.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels fork box -n 4"
    "pixels fork box:ready -n 2 --prefix worker --ttl 1h"
))]
pub struct ForkArgs {
    /// Pixel or checkpoint to clone
    #[arg(value_name = "NAME[:LABEL]", add = completions::clone_sources())]
    from: CloneSource,
    /// Number of clones, 1 to 1000
    #[arg(short = 'n', long, default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Name prefix of the clones [default: NAME]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<Name>,
    /// Delete the clones after this time, such as 90m, 2h or 7d
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = duration_arg::parse_duration_arg)]
    ttl: Option<Duration>,
}

impl ForkArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let prefix = self.prefix.as_ref().unwrap_or(&self.from.pixel).to_string();
        let source = self.from.to_string();
        let backend = context.backend()?;
        let defaults = from_settings::instance_defaults(context, None)?;
        let policy = defaults.policy.in_mode(defaults.policy.mode);
        let mut properties =
            lifecycle::clone_policy_properties(backend, None, &policy, &self.from).await?;
        properties.insert("from".into(), source.clone());
        properties.extend(expiry::expiry_properties(self.ttl)?);
        let options = ForkOptions {
            names: CloneNames::Numbered {
                prefix,
                count: usize::from(self.count),
            },
            limits: Limits::default(),
            properties,
            from: self.from,
            network: defaults.network,
        };
        let ui = context.ui;
        let spinner = ui.spinner();
        let on_ready = |name: &Name| {
            spinner.suspend(|| {
                if ui.json() {
                    ui.value(&json!({"name": name.as_str(), "from": source}));
                } else {
                    ui.line(name.as_str());
                }
            });
        };
        let progress = |phase: &str| spinner.step(phase);
        lifecycle::fork(backend, context.cancel(), options, &progress, &on_ready).await?;
        Ok(())
    }
}
