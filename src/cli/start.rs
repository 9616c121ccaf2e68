//! `pixels start`

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde_json::json;

use super::{Context, completions, from_settings};
use crate::lifecycle;
use crate::model::{Error, Name, Status, Subject};
use crate::retry::{self, Next};

/// For the pixel's network to come up.
const ADDRESS: Duration = Duration::from_secs(15);

/// Start a pixel and show its address
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Name of the pixel; px-NAME is the same
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    name: Name,
}

impl StartArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let name = &self.name;
        let backend = context.backend()?;
        let phases = context.ui.phases();
        let gateway_spec = from_settings::gateway_from_settings(context)?;
        let progress = |phase: &str| phases.step(phase);
        lifecycle::start(backend, context.cancel(), &gateway_spec, name, &progress).await?;
        phases.step("waiting for an address");
        let address = retry::until(ADDRESS, || async {
            match backend.address(name).await {
                Ok(Some(address)) => Next::Done(Ok(Some(address))),
                // Asked in the very moment of the start, a daemon under load may
                // not yet find the process.
                Ok(None) | Err(Error::Server { .. }) => match backend.get(name).await {
                    Ok(pixel) if pixel.status == Status::Stopped => {
                        Next::Done(Err(Error::WrongState {
                            subject: Subject::pixel(name),
                            state: "stopped again: its system ended right after the start".into(),
                        }))
                    }
                    _ => Next::Again(()),
                },
                Err(error) => Next::Done(Err(error)),
            }
        });
        let address = context
            .unless_interrupted(async { address.await.unwrap_or(Ok(None)) })
            .await?;
        drop(phases);
        let sentence = match address {
            None => format!("Started {name} (no IP assigned)"),
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
