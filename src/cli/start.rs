//! `pixels start`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, from_settings};
use crate::lifecycle;
use crate::model::Name;

/// Start a pixel and print its address
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels start box"
    "pixels start box --json"
))]
pub struct StartArgs {
    /// Name of the pixel
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
}

impl StartArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = &self.name;
        let backend = context.backend()?;
        let spinner = context.ui.spinner();
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let progress = |phase: &str| spinner.step(phase);
        lifecycle::start(backend, context.cancel(), &gateway_spec, name, &progress).await?;
        spinner.step("waiting for an address");
        let address = context
            .unless_interrupted(lifecycle::wait_for_address(backend, name))
            .await?;
        drop(spinner);
        let sentence = match address {
            None => format!("Started {name} (no IP address yet)"),
            Some(ip) => format!(
                "Started {name}\n  IP:  {ip}\n  SSH: ssh {}@{ip}",
                context.settings().ssh.user
            ),
        };
        context.ui.done(
            &sentence,
            &json!({"name": name.as_str(), "status": "RUNNING", "ip": address}),
        );
        Ok(())
    }
}
