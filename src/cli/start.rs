//! `pixels start`

use clap::Args;
use serde_json::json;

use super::pixel_arg::PixelArg;
use super::{Context, from_settings};
use crate::lifecycle;

/// Start a pixel and print its address
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels start box"
    "pixels start box --json"
))]
pub struct StartArgs {
    #[command(flatten)]
    pixel: PixelArg,
}

impl StartArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = &self.pixel.name;
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
