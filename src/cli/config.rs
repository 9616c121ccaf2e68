//! `pixels config`

use clap::{Args, Subcommand};

use super::Context;
use crate::config::EffectiveSetting;
use crate::ui::Row;

/// Show the configuration
#[derive(Debug, Subcommand)]
#[command(after_help = examples!(
    "pixels config show"
    "pixels config show --origin"
))]
pub enum ConfigCommand {
    Show(ShowArgs),
}

/// Print the effective settings; secrets are masked
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels config show --origin"
    "pixels config show --json"
    "pixels --config test.toml config show"
))]
pub struct ShowArgs {
    /// Also print the source of each value: default, file, variable or flag
    #[arg(long)]
    origin: bool,
}

impl ConfigCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Show(args) => args.run(context),
        }
    }
}

impl Row for &EffectiveSetting {
    const HEADERS: &'static [&'static str] = &["KEY", "VALUE", "ORIGIN"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.key.clone(),
            self.value.to_string(),
            self.origin.to_string(),
        ]
    }
}

impl ShowArgs {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let entries: Vec<&EffectiveSetting> = context.loaded.effective.iter().collect();
        if context.ui.json() || self.origin {
            context.ui.rows(&entries, "No settings.");
        } else {
            let text: String = entries
                .iter()
                .map(|entry| format!("{} = {}\n", entry.key, entry.value))
                .collect();
            context.ui.text(&text);
        }
        Ok(())
    }
}
