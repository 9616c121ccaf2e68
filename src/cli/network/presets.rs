//! `pixels network presets`

use serde_json::json;

use crate::cli::Context;
use crate::egress::{Group, presets};

pub fn run(context: &Context) {
    let presets = presets();
    if context.ui.json() {
        let group = |group: &Group| json!({"name": group.name, "about": group.about, "entries": group.rules});
        let groups: Vec<_> = presets.groups.iter().map(group).collect();
        context.ui.value(&json!({
            "agent": groups,
            "preset_cidrs": group(&presets.cidrs),
        }));
        return;
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
}
