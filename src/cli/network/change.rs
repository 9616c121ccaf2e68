//! `pixels network set|allow|deny`

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::place;
use crate::cli::{Context, complete};
use crate::config::EgressMode;
use crate::egress::{Entry, Mode, Policy, presets};
use crate::exit::Usage;
use crate::lifecycle::{self, Enforcer};
use crate::sandbox::{Instance, Name};

/// Give a pixel another policy: a mode, and what network.allow adds to it
#[derive(Debug, Args)]
pub struct SetArgs {
    #[arg(add = ArgValueCandidates::new(complete::pixels))]
    name: Name,
    #[arg(value_parser = PossibleValuesParser::new(EgressMode::NAMES))]
    mode: String,
    /// Allow this as well: a host, *.host, an address or a network, with an optional :port
    #[arg(long, value_name = "ENTRY")]
    allow: Vec<Entry>,
}

/// Allow hosts, *.hosts, addresses or networks, each with an optional :port
#[derive(Debug, Args)]
pub struct AllowArgs {
    #[arg(add = ArgValueCandidates::new(complete::pixels))]
    name: Name,
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<Entry>,
}

/// Take entries away again, those of the preset too
#[derive(Debug, Args)]
pub struct DenyArgs {
    #[arg(add = ArgValueCandidates::new(complete::pixels))]
    name: Name,
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<Entry>,
}

async fn apply(context: &Context, pixel: &Instance, policy: &Policy) -> anyhow::Result<()> {
    let sandbox = context.sandbox()?;
    let like = place::like(context)?;
    lifecycle::set_policy(sandbox, context.cancel(), &like, pixel, policy).await?;
    if Enforcer::of(pixel) == Enforcer::Nobody && policy.mode != Mode::Unrestricted {
        context.ui.warn(
            "root inside can lift this policy, and the pixel's user could be root until now: \
             better make a pixel with its policy",
        );
    }
    Ok(())
}

fn listed(entries: &[Entry]) -> String {
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
        let mut policy = place::in_mode(context, mode)?;
        for entry in self.allow {
            policy
                .allow(entry, presets())
                .map_err(|e| Usage(e.to_string()))?;
        }
        let sandbox = context.sandbox()?;
        let pixel = context.unless_interrupted(sandbox.get(&self.name)).await?;
        apply(context, &pixel, &policy).await?;
        context.ui.done(
            &format!("Egress set to {mode} for {}", self.name),
            &json!({"name": self.name.as_str(), "mode": mode, "allow": policy.allow}),
        );
        Ok(())
    }
}

impl AllowArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let sandbox = context.sandbox()?;
        let pixel = context.unless_interrupted(sandbox.get(&self.name)).await?;
        let mut policy = lifecycle::policy(&pixel)?;
        let mut changed = false;
        for entry in &self.entries {
            let new = policy.allow(entry.clone(), presets());
            changed |= new.map_err(|e| {
                Usage(format!(
                    "{e}: pixels network set {} allowlist narrows it",
                    self.name
                ))
            })?;
        }
        // Said again, it is put into force again.
        apply(context, &pixel, &policy).await?;
        context.ui.done(
            &format!("Allowed {} for {}", listed(&self.entries), self.name),
            &json!({"name": self.name.as_str(), "allowed": self.entries, "changed": changed}),
        );
        Ok(())
    }
}

impl DenyArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let sandbox = context.sandbox()?;
        let pixel = context.unless_interrupted(sandbox.get(&self.name)).await?;
        let mut policy = lifecycle::policy(&pixel)?;
        for entry in &self.entries {
            policy
                .deny(entry.clone(), presets())
                .map_err(|e| Usage(e.to_string()))?;
        }
        apply(context, &pixel, &policy).await?;
        context.ui.done(
            &format!("Denied {} for {}", listed(&self.entries), self.name),
            &json!({"name": self.name.as_str(), "denied": self.entries}),
        );
        Ok(())
    }
}
