//! `pixels network show`

use clap::Args;
use serde::Serialize;

use crate::cli::pixel_arg::PixelArg;
use crate::cli::{Context, from_settings};
use crate::egress::{Mode, Policy, Rule, presets};
use crate::lifecycle::{self, Enforcer, expiry};
use crate::ui;

/// Show the egress policy of a pixel
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network show box"
    "pixels network show box --all"
    "pixels network show box --json"
))]
pub struct ShowArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// Show all rules, preset rules included
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
    /// All rules that allow a destination, preset rules included.
    in_force: &'a [Rule],
    enforced: bool,
    enforced_by: Option<&'static str>,
    /// For a running pixel that enforces its policy itself: whether it does.
    holds: Option<bool>,
    /// End of the provisioning lease, during which the preset rules apply too.
    lease_until: Option<String>,
}

impl ShowArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let name = &self.pixel.name;
        let pixel = context.get(name).await?;
        let policy = lifecycle::recorded_policy(&pixel)?;
        let enforcer = Enforcer::of_instance(&pixel);
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let enforced = lifecycle::is_enforced(backend, &gateway_spec, &pixel);
        let holds = context.unless_interrupted(enforced).await?;
        let lease = lifecycle::lease(backend, &gateway_spec, &pixel);
        let lease = context.unless_interrupted(lease).await?;
        let leased = lease.and_then(|_| policy.during_lease());
        let in_force = leased.as_ref().unwrap_or(&policy).rules_in_force(presets());
        let in_force: Vec<Rule> = in_force.into_iter().collect();
        if context.ui.json() {
            context.ui.value(&PolicyView {
                name: name.as_str(),
                mode: policy.mode,
                allow: &policy.allow,
                deny: &policy.deny,
                lan: policy.lan,
                preset_cidrs: policy.preset_cidrs,
                in_force: &in_force,
                enforced: enforcer != Enforcer::None,
                enforced_by: enforcer.name(),
                holds,
                lease_until: lease.and_then(expiry::after),
            });
            return Ok(());
        }
        context.ui.text(&self.policy_as_text(&policy, &in_force));
        if policy.mode == Mode::Agent && !self.all {
            context
                .ui
                .status("Preset rules are allowed too; show them with --all.");
        }
        if let Some(remaining) = lease {
            context.ui.warn(&format!(
                "a provisioning lease allows the preset rules too; it ends with provisioning, or \
                 in {} if the command that provisions the pixel has exited",
                ui::human_duration(remaining)
            ));
        }
        match enforcer {
            Enforcer::Gateway => {}
            Enforcer::Pixel if holds == Some(false) => context.ui.warn(&format!(
                "the pixel does not enforce this policy; run: pixels network set {name} {}",
                policy.mode
            )),
            Enforcer::Pixel => context
                .ui
                .status("The policy is enforced inside the pixel: only root inside can remove it."),
            Enforcer::None => context
                .ui
                .warn("no policy is enforced on this pixel's network"),
        }
        Ok(())
    }

    fn policy_as_text(&self, policy: &Policy, in_force: &[Rule]) -> String {
        let mut text = format!("Mode: {}\n", policy.mode);
        let mut add_rules = |title: &str, rules: &[Rule]| {
            if !rules.is_empty() {
                text.push_str(&format!("{title}:\n"));
                for rule in rules {
                    text.push_str(&format!("  {rule}\n"));
                }
            }
        };
        if self.all {
            add_rules("Allowed", in_force);
        } else {
            add_rules("Allowed", &policy.allow);
            add_rules("Denied", &policy.deny);
        }
        text
    }
}
