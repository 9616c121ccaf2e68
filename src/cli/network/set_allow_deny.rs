//! `pixels network set|allow|deny`

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use crate::cli::from_settings;
use crate::cli::{Context, completions};
use crate::config::EgressMode;
use crate::egress::{self, Mode, Policy, Rule, presets};
use crate::exit::Usage;
use crate::lifecycle::{self, Enforcer};
use crate::model::Name;

/// Give a pixel another policy: a mode, and what network.allow adds to it
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// Everything, what agents need (pixels network presets), or only what is allowed
    #[arg(value_parser = PossibleValuesParser::new(EgressMode::NAMES))]
    mode: String,
    /// Allow this as well: a host, *.host, an address or a network, with an optional :port
    #[arg(long, value_name = "ENTRY")]
    allow: Vec<Rule>,
}

/// Allow hosts, *.hosts, addresses or networks, each with an optional :port
#[derive(Debug, Args)]
pub struct AllowArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// A host, *.host, an address or a network, with an optional :port
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<Rule>,
}

/// Take entries away again, those of the preset too
#[derive(Debug, Args)]
pub struct DenyArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
    /// A host, *.host, an address or a network, with an optional :port
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<Rule>,
}

async fn apply(
    context: &Context,
    name: &Name,
    change: &(dyn Fn(&mut Policy) -> Result<(), egress::ChangeError> + Sync),
) -> anyhow::Result<()> {
    let backend = context.backend()?;
    let gateway_spec = from_settings::gateway_from_settings(context)?;
    let before = context.unless_interrupted(backend.get(name)).await?;
    match lifecycle::change_policy(backend, context.cancel(), &gateway_spec, name, change).await {
        Ok(()) => {}
        Err(lifecycle::ChangeError::Policy(error)) => {
            let mut text = error.to_string();
            if let egress::ChangeError::Unrestricted(_) = error {
                text.push_str(&format!(": pixels network set {name} allowlist narrows it"));
            }
            return Err(Usage(text).into());
        }
        Err(lifecycle::ChangeError::Failed(error)) => return Err(error.into()),
    }
    if Enforcer::of_instance(&before) == Enforcer::None {
        let after = context.unless_interrupted(backend.get(name)).await?;
        if lifecycle::recorded_policy(&after)?.mode != Mode::Unrestricted {
            context.ui.warn(
                "root inside can lift this policy, and the pixel's user could be root until now: \
                 better make a pixel with its policy",
            );
        }
    }
    Ok(())
}

fn join_rules(entries: &[Rule]) -> String {
    let all: Vec<String> = entries.iter().map(ToString::to_string).collect();
    all.join(", ")
}

impl SetArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mode = match EgressMode::from_name(&self.mode) {
            Some(EgressMode::Agent) => Mode::Agent,
            Some(EgressMode::Allowlist) => Mode::Allowlist,
            Some(EgressMode::Unrestricted) | None => Mode::Unrestricted,
        };
        let mut policy = from_settings::default_policy_in_mode(context, mode)?;
        for entry in self.allow {
            policy
                .allow(entry, presets())
                .map_err(|e| Usage(e.to_string()))?;
        }
        let replace = |present: &mut Policy| {
            *present = policy.clone();
            Ok(())
        };
        apply(context, &self.name, &replace).await?;
        context.ui.done(
            &format!("Egress set to {mode} for {}", self.name),
            &json!({"name": self.name.as_str(), "mode": mode, "allow": policy.allow}),
        );
        Ok(())
    }
}

impl AllowArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let changed = AtomicBool::new(false);
        let allow = |policy: &mut Policy| {
            for entry in &self.entries {
                if policy.allow(entry.clone(), presets())? {
                    changed.store(true, Ordering::Relaxed);
                }
            }
            // Said again, it is put into force again.
            Ok(())
        };
        apply(context, &self.name, &allow).await?;
        let changed = changed.load(Ordering::Relaxed);
        context.ui.done(
            &format!("Allowed {} for {}", join_rules(&self.entries), self.name),
            &json!({"name": self.name.as_str(), "allowed": self.entries, "changed": changed}),
        );
        Ok(())
    }
}

impl DenyArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let deny = |policy: &mut Policy| {
            let mut entries = self.entries.iter();
            entries.try_for_each(|entry| policy.deny(entry.clone(), presets()))
        };
        apply(context, &self.name, &deny).await?;
        context.ui.done(
            &format!("Denied {} for {}", join_rules(&self.entries), self.name),
            &json!({"name": self.name.as_str(), "denied": self.entries}),
        );
        Ok(())
    }
}
