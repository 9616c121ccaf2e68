//! `pixels network show`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde::Serialize;

use crate::cli::from_settings;
use crate::cli::{Context, completions};
use crate::egress::{Mode, Rule, presets};
use crate::lifecycle::{self, Enforcer};
use crate::model::Name;

/// Show what a pixel may reach
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Every entry in force, those of the preset included
    #[arg(short, long)]
    all: bool,
}

#[derive(Serialize)]
struct PolicyView<'a> {
    name: &'a str,
    mode: Mode,
    allow: &'a [Rule],
    deny: &'a [Rule],
    lan: bool,
    preset_cidrs: bool,
    /// Everything allowed by name or address.
    in_force: Vec<Rule>,
    enforced: bool,
    /// `gateway` or `pixel`.
    enforced_by: Option<&'static str>,
    /// Of a running pixel that enforces it itself: whether it does.
    holds: Option<bool>,
    interim: bool,
}

impl ShowArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let pixel = context.unless_interrupted(backend.get(&self.name)).await?;
        let policy = lifecycle::recorded_policy(&pixel)?;
        let in_force: Vec<Rule> = policy.rules_in_force(presets()).into_iter().collect();
        let interim = lifecycle::is_interim(&pixel);
        let enforcer = Enforcer::of_instance(&pixel);
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let look = lifecycle::is_enforced(backend, &gateway_spec, &pixel);
        let holds = context.unless_interrupted(look).await?;
        if context.ui.json() {
            context.ui.value(&PolicyView {
                name: self.name.as_str(),
                mode: policy.mode,
                allow: &policy.allow,
                deny: &policy.deny,
                lan: policy.lan,
                preset_cidrs: policy.preset_cidrs,
                in_force,
                enforced: enforcer != Enforcer::None,
                enforced_by: enforcer.name(),
                holds,
                interim,
            });
            return Ok(());
        }
        let mut text = format!("Mode: {}\n", policy.mode);
        let mut list = |title: &str, entries: &[Rule]| {
            if !entries.is_empty() {
                text.push_str(&format!("{title}:\n"));
                for entry in entries {
                    text.push_str(&format!("  {entry}\n"));
                }
            }
        };
        if self.all {
            list("Domains", &in_force);
        } else {
            list("Domains", &policy.allow);
            list("Without", &policy.deny);
        }
        context.ui.text(&text);
        if policy.mode == Mode::Agent && !self.all {
            context
                .ui
                .status("and the preset: pixels network presets, or --all");
        }
        if interim {
            context
                .ui
                .warn("what provisioning needs is allowed as well, until it is over");
        }
        match enforcer {
            Enforcer::Gateway => {}
            Enforcer::Pixel if holds == Some(false) => context.ui.warn(&format!(
                "what is in force inside is not this: pixels network set {} puts it back",
                self.name
            )),
            Enforcer::Pixel => context
                .ui
                .status("enforced inside the pixel: its user cannot lift that, its root can"),
            Enforcer::None => context
                .ui
                .warn("this pixel is on a network of its own: nothing enforces a policy"),
        }
        Ok(())
    }
}
