//! `pixels network presets`

use clap::Args;
use serde_json::json;

use crate::cli::Context;
use crate::egress::{Group, presets};

/// Print the rules of the mode agent
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network presets"
    "pixels network presets --json"
))]
pub struct PresetsArgs {}

impl PresetsArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let presets = presets();
        if context.ui.json() {
            let group = |group: &Group| json!({"name": group.name, "about": group.about, "entries": group.rules});
            let groups: Vec<_> = presets.groups.iter().map(group).collect();
            context.ui.value(&json!({
                "agent": groups,
                "preset_cidrs": group(&presets.cidrs),
            }));
            return Ok(());
        }
        let mut text = String::new();
        let mut add_group = |group: &Group, condition: &str| {
            text.push_str(&format!("{}{condition}: {}\n", group.name, group.about));
            for rule in &group.rules {
                text.push_str(&format!("  {rule}\n"));
            }
        };
        for group in &presets.groups {
            add_group(group, "");
        }
        add_group(&presets.cidrs, " (only with network.preset_cidrs)");
        context.ui.text(&text);
        Ok(())
    }
}
