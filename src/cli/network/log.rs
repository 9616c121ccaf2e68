//! `pixels network log`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde::Serialize;

use crate::cli::from_settings;
use crate::cli::{Context, completions, list};
use crate::egress::Denial;
use crate::lifecycle;
use crate::model::Name;
use crate::ui::Row;

/// Between two looks with --follow.
const POLL: Duration = Duration::from_millis(500);

/// Show what a pixel was refused within the last hour, and what would admit it
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Go on showing what is refused
    #[arg(short, long)]
    follow: bool,
}

#[derive(Serialize)]
struct DenialRow {
    #[serde(flatten)]
    denial: Denial,
    last_at: Option<String>,
    /// The command that admits it.
    admit: Option<String>,
}

impl DenialRow {
    fn new(name: &Name, denial: Denial) -> Self {
        Self {
            last_at: i64::try_from(denial.last).ok().and_then(list::rfc3339),
            admit: denial
                .rule
                .as_ref()
                .map(|entry| format!("pixels network allow {name} {entry}")),
            denial,
        }
    }
}

impl Row for DenialRow {
    const HEADERS: &'static [&'static str] = &["LAST", "REFUSED", "BY", "TIMES", "ALLOW WITH"];

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
        let pixel = context.unless_interrupted(backend.get(&self.name)).await?;
        let look =
            || context.unless_interrupted(lifecycle::denials(backend, &gateway_spec, &pixel));
        if !self.follow {
            let lines: Vec<DenialRow> = look()
                .await?
                .into_iter()
                .map(|denial| DenialRow::new(&self.name, denial))
                .collect();
            let empty = format!("Nothing was refused to {} within the last hour.", self.name);
            context.ui.rows(&lines, &empty);
            return Ok(());
        }
        let mut seen: BTreeMap<(String, String), u64> = BTreeMap::new();
        loop {
            let mut listed = BTreeMap::new();
            // Oldest first, as a log is read.
            for denial in look().await?.into_iter().rev() {
                let key = (denial.destination.clone(), denial.protocol.clone());
                let before = seen.get(&key).copied();
                listed.insert(key, denial.count);
                if before == Some(denial.count) {
                    continue;
                }
                let line = DenialRow::new(&self.name, denial);
                if context.ui.json() {
                    context.ui.value(&line);
                } else {
                    context.ui.text(&format!("{}\n", line.cells().join("  ")));
                }
            }
            if !context.ui.has_reader() {
                return Ok(());
            }
            // What is no longer listed is forgotten: a pixel can be refused
            // another name at every turn.
            seen = listed;
            let pause = async {
                tokio::time::sleep(POLL).await;
                Ok(())
            };
            context.unless_interrupted(pause).await?;
        }
    }
}
