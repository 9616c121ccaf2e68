//! `pixels config`

use clap::Subcommand;

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
    /// Print the effective settings; secrets are masked
    #[command(after_help = examples!(
        "pixels config show --origin"
        "pixels config show --json"
        "pixels --config test.toml config show"
    ))]
    Show {
        /// Also print the source of each value: default, file, variable or flag
        #[arg(long)]
        origin: bool,
    },
}

impl Row for EffectiveSetting {
    const HEADERS: &'static [&'static str] = &["KEY", "VALUE", "ORIGIN"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.key.clone(),
            self.value.to_string(),
            self.origin.to_string(),
        ]
    }
}

impl ConfigCommand {
    pub fn run(self, context: &Context) {
        let Self::Show { origin } = self;
        let entries = &context.loaded.effective;
        if context.ui.json() || origin {
            context.ui.rows(entries, "No settings.");
        } else {
            let lines = entries
                .iter()
                .map(|it| format!("{} = {}\n", it.key, it.value));
            context.ui.text(&String::from_iter(lines));
        }
    }
}
