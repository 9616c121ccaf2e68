//! `pixels network gateway`

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::Context;
use crate::cli::from_settings;
use crate::exit::ExitWith;
use crate::lifecycle::gateway::{self, Health};

/// What stands between pixels and the network
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    Status(StatusArgs),
    Rebuild(RebuildArgs),
    Remove(RemoveArgs),
}

/// Tell whether the gateway enforces what is on record; exit code 1 when not
#[derive(Debug, Args)]
pub struct StatusArgs {}

/// Make the gateway anew; pixels behind it have no network meanwhile
#[derive(Debug, Args)]
pub struct RebuildArgs {}

/// Remove the gateway and its bridge, which no pixel may need any more
#[derive(Debug, Args)]
pub struct RemoveArgs {}

impl GatewayCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Status(args) => args.run(context).await,
            Self::Rebuild(args) => args.run(context).await,
            Self::Remove(args) => args.run(context).await,
        }
    }
}

impl StatusArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let health = context
            .unless_interrupted(gateway::health(backend, &gateway_spec))
            .await?;
        let facts = json!({
            "gateway": gateway_spec.name.instance(),
            "bridge": gateway_spec.bridge,
            "state": health.name(),
            "detail": health.to_string(),
        });
        context.ui.done(
            &format!(
                "{} on {}: {health}",
                gateway_spec.name.instance(),
                gateway_spec.bridge
            ),
            &facts,
        );
        match health {
            Health::Good { .. } => Ok(()),
            _ => Err(ExitWith(1).into()),
        }
    }
}

impl RebuildArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let phases = context.ui.phases();
        let progress = |phase: &str| phases.step(phase);
        gateway::rebuild(backend, context.cancel(), &gateway_spec, &progress).await?;
        drop(phases);
        context.ui.done(
            &format!("Rebuilt {}", gateway_spec.name.instance()),
            &json!({"gateway": gateway_spec.name.instance(), "rebuilt": true}),
        );
        Ok(())
    }
}

impl RemoveArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        context
            .unless_interrupted(gateway::remove(backend, &gateway_spec))
            .await?;
        context.ui.done(
            &format!(
                "Removed {} and {}",
                gateway_spec.name.instance(),
                gateway_spec.bridge
            ),
            &json!({"gateway": gateway_spec.name.instance(), "bridge": gateway_spec.bridge, "removed": true}),
        );
        Ok(())
    }
}
