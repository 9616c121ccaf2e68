//! `pixels network log`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::pixel_arg::PixelArg;
use crate::cli::{Context, from_settings};
use crate::egress::Denial;
use crate::lifecycle;
use crate::model::{Name, rfc3339};
use crate::ui::Row;

const POLL: Duration = Duration::from_millis(500);

/// Show denied connections, with the command that allows each
///
/// Shows the latest 200 connections and DNS queries of the last hour.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network log box"
    "pixels network log box --follow"
))]
pub struct LogArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Stream new denied connections until interrupted
    #[arg(short, long)]
    follow: bool,
}

#[derive(Serialize)]
struct DenialRow {
    #[serde(flatten)]
    denial: Denial,
    last_at: Option<String>,
    /// The command that allows the connection.
    admit: Option<String>,
}

impl DenialRow {
    fn new(name: &Name, denial: Denial) -> Self {
        Self {
            last_at: i64::try_from(denial.last).ok().and_then(rfc3339),
            admit: denial
                .rule
                .as_ref()
                .map(|rule| format!("pixels network allow {name} {rule}")),
            denial,
        }
    }
}

impl Row for DenialRow {
    const HEADERS: &'static [&'static str] = &["LAST", "DENIED", "BY", "COUNT", "ALLOW WITH"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.last_at.clone().unwrap_or_else(|| "—".into()),
            self.denial.destination.clone(),
            self.denial.protocol.clone(),
            self.denial.count.to_string(),
            self.admit.clone().unwrap_or_else(|| "—".into()),
        ]
    }
}

impl LogArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let name = &self.pixel.name;
        let pixel = context.get(name).await?;
        let read_log =
            || context.unless_interrupted(lifecycle::denials(backend, &gateway_spec, &pixel));
        if !self.follow {
            let denials = read_log().await?;
            let rows = denials.latest.into_iter();
            let rows: Vec<DenialRow> = rows.map(|denial| DenialRow::new(name, denial)).collect();
            let empty = format!("Nothing was denied to {name} in the last hour.");
            context.ui.rows(&rows, &empty);
            if denials.earlier > 0 {
                let more = format!("{} earlier denials are not listed.", denials.earlier);
                context.ui.status(&more);
            }
            if denials.full {
                let full = "too many different addresses: further denials were not recorded";
                context.ui.warn(full);
            }
            return Ok(());
        }
        // Last printed count for each destination and protocol.
        let mut printed: BTreeMap<(String, String), u64> = BTreeMap::new();
        loop {
            let mut counts = BTreeMap::new();
            // Print the oldest denial first, as in a log.
            for denial in read_log().await?.latest.into_iter().rev() {
                let key = (denial.destination.clone(), denial.protocol.clone());
                let previous = printed.get(&key).copied();
                counts.insert(key, denial.count);
                if previous == Some(denial.count) {
                    continue;
                }
                let row = DenialRow::new(name, denial);
                if context.ui.json() {
                    context.ui.value(&row);
                } else {
                    context.ui.line(&row.cells().join("  "));
                }
            }
            if !context.ui.has_reader() {
                return Ok(());
            }
            // Forget destinations that are no longer in the log.
            printed = counts;
            context.interruptible(tokio::time::sleep(POLL)).await?;
        }
    }
}
