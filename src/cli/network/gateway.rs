//! `pixels network gateway`

use clap::Subcommand;
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
    /// Check that the gateway enforces all policies
    ///
    /// Exits with 1 if it does not.
    #[command(after_help = examples!(
        "pixels network gateway status"
        "pixels network gateway status --json"
    ))]
    Status,
    /// Rebuild the gateway; its pixels have no network until then
    #[command(after_help = examples!(
        "pixels network gateway rebuild"
        "pixels network gateway rebuild --verbose"
    ))]
    Rebuild,
    /// Remove the gateway and its bridge; fails while pixels use it
    #[command(after_help = examples!(
        "pixels network gateway remove"
        "pixels network gateway remove --json"
    ))]
    Remove,
}

impl GatewayCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let (name, bridge) = (gateway_spec.name.instance(), &gateway_spec.bridge);
        match self {
            Self::Status => {
                let checking = gateway::health(backend, &gateway_spec);
                let health = context.unless_interrupted(checking).await?;
                context.ui.done(
                    &format!("{name} on {bridge}: {health}"),
                    &json!({
                        "gateway": name,
                        "bridge": bridge,
                        "state": health.name(),
                        "detail": health.to_string(),
                    }),
                );
                if !matches!(health, Health::Good { .. }) {
                    return Err(ExitWith(exit::FAILURE).into());
                }
            }
            Self::Rebuild => {
                let spinner = context.ui.spinner();
                let progress = |phase: &str| spinner.step(phase);
                gateway::rebuild(backend, context.cancel(), &gateway_spec, &progress).await?;
                drop(spinner);
                context.ui.done(
                    &format!("Rebuilt {name}"),
                    &json!({"gateway": name, "rebuilt": true}),
                );
            }
            Self::Remove => {
                let removing = gateway::remove(backend, &gateway_spec);
                context.unless_interrupted(removing).await?;
                context.ui.done(
                    &format!("Removed {name} and {bridge}"),
                    &json!({"gateway": name, "bridge": bridge, "removed": true}),
                );
            }
        }
        Ok(())
    }
}
