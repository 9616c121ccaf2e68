//! `pixels fork`

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, expire, from_settings};
use crate::lifecycle::{self, CloneNames, ForkOptions, expiry};
use crate::model::{CloneSource, Limits, Name};

/// Make several clones of a pixel or a checkpoint, side by side
///
/// They are called PREFIX-1, PREFIX-2 and so on; taken numbers are skipped.
/// Each name is printed as soon as that clone can be used.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// The pixel to clone as it is now, or one of its checkpoints
    #[arg(value_name = "NAME[:LABEL]", add = ArgValueCandidates::new(completions::origins))]
    from: CloneSource,
    /// How many clones
    #[arg(short = 'n', long, default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// What the names begin with, by default the source's name
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<Name>,
    /// Let them expire after this time, such as 90m, 2h or 7d
    #[arg(long, value_name = "DURATION", allow_negative_numbers = true, value_parser = expire::parse_lifetime)]
    ttl: Option<Duration>,
}

impl ForkArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let prefix = self.prefix.as_ref().unwrap_or(&self.from.pixel).to_string();
        let backend = context.backend()?;
        let network = from_settings::network_from_settings(context)?;
        let mut properties = from_settings::policy_for_clone(context, backend, &self.from).await?;
        properties.insert("from".into(), self.from.to_string());
        properties.extend(expiry::expiry_properties(self.ttl)?);
        let phases = context.ui.phases();
        let origin = self.from.to_string();
        let options = ForkOptions {
            names: CloneNames::Numbered {
                prefix,
                count: usize::from(self.count),
            },
            limits: Limits::default(),
            properties,
            from: self.from,
            network,
        };
        let ui = context.ui;
        let ready = |name: &Name| {
            phases.above(|| {
                if ui.json() {
                    ui.value(&json!({"name": name.as_str(), "from": origin}));
                } else {
                    ui.text(&format!("{name}\n"));
                }
            });
        };
        lifecycle::fork(
            backend,
            context.cancel(),
            options,
            &|phase| phases.step(phase),
            &ready,
        )
        .await?;
        Ok(())
    }
}
