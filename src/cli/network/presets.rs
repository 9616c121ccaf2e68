//! `pixels network presets`

use clap::Args;
use serde_json::json;

use crate::cli::Context;
use crate::egress::{Group, presets};

/// Show what the mode agent allows
#[derive(Debug, Args)]
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
        for group in &presets.groups {
            text.push_str(&format!("{}: {}\n", group.name, group.about));
            for entry in &group.rules {
                text.push_str(&format!("  {entry}\n"));
            }
        }
        text.push_str(&format!(
            "{} (only with network.preset_cidrs): {}\n",
            presets.cidrs.name, presets.cidrs.about
        ));
        for entry in &presets.cidrs.rules {
            text.push_str(&format!("  {entry}\n"));
        }
        context.ui.text(&text);
        Ok(())
    }
}
