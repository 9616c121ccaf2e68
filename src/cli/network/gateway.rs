//! `pixels network gateway`

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::Context;
use crate::cli::from_settings;
use crate::exit::{self, ExitWith};
use crate::lifecycle::gateway::{self, Health};

/// Manage the gateway, which enforces egress policies
///
/// The first pixel creates the gateway and its isolated bridge.
#[derive(Debug, Subcommand)]
#[command(after_help = examples!(
    "pixels network gateway status"
    "pixels network gateway rebuild"
))]
pub enum GatewayCommand {
    Status(StatusArgs),
    Rebuild(RebuildArgs),
    Remove(RemoveArgs),
}

/// Check that the gateway enforces all policies
///
/// Exits with 1 if it does not.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network gateway status"
    "pixels network gateway status --json"
))]
pub struct StatusArgs {}

/// Rebuild the gateway; its pixels have no network until then
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network gateway rebuild"
    "pixels network gateway rebuild --verbose"
))]
pub struct RebuildArgs {}

/// Remove the gateway and its bridge; fails while pixels use it
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels network gateway remove"
    "pixels network gateway remove --json"
))]
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
        let name = gateway_spec.name.instance();
        context.ui.done(
            &format!("{name} on {}: {health}", gateway_spec.bridge),
            &json!({
                "gateway": name,
                "bridge": gateway_spec.bridge,
                "state": health.name(),
                "detail": health.to_string(),
            }),
        );
        match health {
            Health::Good { .. } => Ok(()),
            _ => Err(ExitWith(exit::FAILURE).into()),
        }
    }
}

impl RebuildArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let spinner = context.ui.spinner();
        let progress = |phase: &str| spinner.step(phase);
        gateway::rebuild(backend, context.cancel(), &gateway_spec, &progress).await?;
        drop(spinner);
        let name = gateway_spec.name.instance();
        context.ui.done(
            &format!("Rebuilt {name}"),
            &json!({"gateway": name, "rebuilt": true}),
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
        let (name, bridge) = (gateway_spec.name.instance(), &gateway_spec.bridge);
        context.ui.done(
            &format!("Removed {name} and {bridge}"),
            &json!({"gateway": name, "bridge": bridge, "removed": true}),
        );
        Ok(())
    }
}
