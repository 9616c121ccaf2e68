//! `pixels top`

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::{Context, completions, events, expire};
use crate::lifecycle::usage::{self, UsageRow, UsageSample};
use crate::model::{Instance, Name};
use crate::ui::{self, Row};

/// Show what running pixels use: CPU, memory, disk and network
///
/// On a terminal it goes on until interrupted; elsewhere, and as JSON, it looks
/// twice, a second apart, and ends.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Only these
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    names: Vec<Name>,
    /// Look only twice on a terminal as well
    #[arg(long)]
    once: bool,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", allow_negative_numbers = true, value_parser = expire::parse_lifetime)]
    interval: Duration,
}

impl Row for UsageRow {
    const HEADERS: &'static [&'static str] = &[
        "NAME",
        "CPU",
        "MEMORY",
        "DISK",
        "RECEIVED",
        "SENT",
        "PROCESSES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            format!("{:.1}%", self.cpu_percent),
            ui::bytes(self.memory_bytes),
            self.disk_bytes.map_or_else(|| "—".into(), ui::bytes),
            format!("{}/s", ui::bytes(self.received_per_second)),
            format!("{}/s", ui::bytes(self.sent_per_second)),
            self.processes.to_string(),
        ]
    }
}

impl TopArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let live = context.ui.is_interactive() && !self.once;
        let (mut pixels, mut before) = self.sample(context).await?;
        loop {
            let pause = async {
                tokio::time::sleep(self.interval).await;
                Ok(())
            };
            context.unless_interrupted(pause).await?;
            let after;
            (pixels, after) = match live {
                // Others come and go.
                true => self.sample(context).await?,
                false => {
                    let again = usage::sample(context.backend()?, &pixels);
                    let look = context.unless_interrupted(again).await?;
                    (pixels, look)
                }
            };
            let lines = usage::rows_between(&before, &after, &pixels);
            if !live {
                context.ui.rows(&lines, "No pixel is running.");
                return Ok(());
            }
            context.ui.screen(&lines);
            before = after;
        }
    }

    async fn sample(&self, context: &Context) -> anyhow::Result<(Vec<Instance>, UsageSample)> {
        let backend = context.backend()?;
        let mut pixels = context.unless_interrupted(backend.list()).await?;
        expire::destroy_expired(context, &mut pixels).await?;
        events::keep_named(&mut pixels, &self.names)?;
        let looking = usage::sample(backend, &pixels);
        let look = context.unless_interrupted(looking).await?;
        Ok((pixels, look))
    }
}
