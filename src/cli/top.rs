//! `pixels top`

use std::time::Duration;

use clap::Args;

use super::{Context, completions, duration_arg, pixel_list};
use crate::lifecycle::usage::{self, UsageRow, UsageSample};
use crate::model::{Instance, Name};
use crate::ui::{self, Row};

/// Show CPU, memory, disk and network usage of running pixels
///
/// On a terminal, refreshes until interrupted. Otherwise, and with --json, prints
/// the usage of one interval and exits.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels top"
    "pixels top box try --interval 5s"
    "pixels top --json"
))]
pub struct TopArgs {
    /// Only these pixels
    #[arg(value_name = "NAME", add = completions::pixels())]
    names: Vec<Name>,
    /// Print the usage of one interval and exit
    #[arg(long)]
    once: bool,
    /// Time between two samples
    #[arg(long, value_name = "DURATION", default_value = "1s", allow_negative_numbers = true, value_parser = duration_arg::parse_duration_arg)]
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
            let pause = tokio::time::sleep(self.interval);
            context.interruptible(pause).await?;
            if !live {
                let sampling = usage::sample(context.backend()?, &pixels);
                let after = context.unless_interrupted(sampling).await?;
                let rows = usage::rows_between(&before, &after, &pixels);
                context.ui.rows(&rows, "No pixel is running.");
                return Ok(());
            }
            let after;
            // Other commands may have created or destroyed pixels.
            (pixels, after) = self.sample(context).await?;
            let rows = usage::rows_between(&before, &after, &pixels);
            context.ui.screen(&rows);
            before = after;
        }
    }

    async fn sample(&self, context: &Context) -> anyhow::Result<(Vec<Instance>, UsageSample)> {
        let mut pixels = pixel_list::list_unexpired(context).await?;
        pixel_list::keep_named(&mut pixels, &self.names)?;
        let sampling = usage::sample(context.backend()?, &pixels);
        let sample = context.unless_interrupted(sampling).await?;
        Ok((pixels, sample))
    }
}
