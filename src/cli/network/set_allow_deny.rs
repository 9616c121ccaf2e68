//! `pixels network set|allow|deny`

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use crate::cli::Context;
use crate::cli::from_settings;
use crate::cli::pixel_arg::PixelArg;
use crate::egress::{self, Mode, Policy, Rule, presets};
use crate::exit::Usage;
use crate::lifecycle::{self, Enforcer};
use crate::model::{Error, Name};

/// Set the egress policy of a pixel, replacing its mode and rules
///
/// The new policy has the rules of the setting network.allow and those of --allow.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network set box agent"
    "pixels network set box allowlist --allow github.com --allow '*.pypi.org:443'"
    "pixels network set box unrestricted"
))]
pub struct SetArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// unrestricted: the internet; agent: rules for coding agents, as shown by
    /// pixels network presets; allowlist: only the rules
    #[arg(value_parser = PossibleValuesParser::new(Mode::NAMES).try_map(|name| Mode::from_name(&name).ok_or(name)))]
    mode: Mode,
    /// Also allow a host, *.host, address or CIDR, with an optional :port; repeatable
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,
}

// A doc comment here would replace the description of the commands.
#[derive(Debug, Args)]
pub struct RulesArgs {
    #[command(flatten)]
    pixel: PixelArg,
    /// A host, *.host, address or CIDR, with an optional :port
    #[arg(required = true, value_name = "RULE")]
    rules: Vec<Rule>,
}

/// Changes a pixel's policy. Warns if root inside can undo the change.
async fn change_policy(
    context: &Context,
    name: &Name,
    change: &(dyn Fn(&mut Policy) -> Result<(), egress::ChangeError> + Sync),
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    let gateway_spec = from_settings::gateway_from_settings(context)?;
    let change = |policy: &mut Policy| {
        change(policy).map_err(|error| {
            let mut text = error.to_string();
            if let egress::ChangeError::Unrestricted(_) = error {
                text.push_str(&format!(
                    "; to restrict it, run: pixels network set {name} allowlist"
                ));
            }
            Error::Invalid(text.into())
        })
    };
    let cancel = context.cancel();
    let before = lifecycle::change_policy(backend, cancel, &gateway_spec, name, &change).await?;
    if Enforcer::of_instance(&before) == Enforcer::None {
        let after = context.get(name).await?;
        if lifecycle::recorded_policy(&after)?.mode != Mode::Unrestricted {
            context.ui.warn(
                "root inside can remove this policy, and the pixel's user could become root \
                 before; create a new pixel with --egress",
            );
        }
    }
    Ok(())
}

fn join_rules(rules: &[Rule]) -> String {
    let all: Vec<String> = rules.iter().map(ToString::to_string).collect();
    all.join(", ")
}

impl SetArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut policy = from_settings::settings_policy(context)?.in_mode(self.mode);
        for rule in self.allow {
            policy
                .allow(rule, presets())
                .map_err(|e| Usage(e.to_string()))?;
        }
        let replace = |present: &mut Policy| {
            *present = policy.clone();
            Ok(())
        };
        let name = &self.pixel.name;
        change_policy(context, name, &replace).await?;
        context.ui.done(
            &format!("Egress set to {} for {name}", self.mode),
            &json!({"name": name.as_str(), "mode": self.mode, "allow": policy.allow}),
        );
        Ok(())
    }
}

impl RulesArgs {
    pub async fn allow(self, context: &Context) -> anyhow::Result<()> {
        let changed = AtomicBool::new(false);
        let allow = |policy: &mut Policy| {
            for rule in &self.rules {
                if policy.allow(rule.clone(), presets())? {
                    changed.store(true, Ordering::Relaxed);
                }
            }
            // A policy that is already set is applied again too.
            Ok(())
        };
        let name = &self.pixel.name;
        change_policy(context, name, &allow).await?;
        let changed = changed.load(Ordering::Relaxed);
        context.ui.done(
            &format!("Allowed {} for {name}", join_rules(&self.rules)),
            &json!({"name": name.as_str(), "allowed": self.rules, "changed": changed}),
        );
        Ok(())
    }

    pub async fn deny(self, context: &Context) -> anyhow::Result<()> {
        let deny = |policy: &mut Policy| {
            let mut rules = self.rules.iter();
            rules.try_for_each(|rule| policy.deny(rule.clone(), presets()))
        };
        let name = &self.pixel.name;
        change_policy(context, name, &deny).await?;
        context.ui.done(
            &format!("Denied {} for {name}", join_rules(&self.rules)),
            &json!({"name": name.as_str(), "denied": self.rules}),
        );
        Ok(())
    }
}
