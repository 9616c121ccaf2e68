//! `pixels forward list` and `stop`

use clap::Args;

use super::registry_dir;
use crate::cli::Context;
use crate::exit::Usage;
use crate::forward::registry::{self, Forward};
use crate::model::{Error, Name, Subject};
use crate::ui::Row;

/// List this user's forwarded ports
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels forward list"
    "pixels forward list --json"
))]
pub struct ListArgs {}

/// Stop forwarding ports of pixels
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels forward stop box"
    "pixels forward stop --all"
))]
pub struct StopArgs {
    /// Names of the pixels
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// Stop all of this user's forwards
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

impl Row for Forward {
    const HEADERS: &'static [&'static str] = &["NAME", "LOCAL", "PORT", "PID", "BACKGROUND"];

    fn cells(&self) -> Vec<String> {
        let ports = self.ports.iter();
        let local = ports
            .clone()
            .map(|port| format!("127.0.0.1:{}", port.local));
        let remote = ports.map(|port| port.remote.to_string());
        vec![
            self.name.clone(),
            Vec::from_iter(local).join(","),
            Vec::from_iter(remote).join(","),
            self.pid.to_string(),
            if self.background { "yes" } else { "no" }.into(),
        ]
    }
}

impl ListArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        context.ui.rows(&registered()?, "No ports are forwarded.");
        Ok(())
    }
}

impl StopArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        if self.names.is_empty() && !self.all {
            return Err(Usage("specify NAME or --all".into()).into());
        }
        let mut forwards = registered()?;
        let missing = |name: &&Name| !forwards.iter().any(|it| it.name == name.as_str());
        if let Some(name) = self.names.iter().find(missing) {
            let subject = format!("forward of pixel {:?}", name.as_str());
            return Err(Error::NotFound(Subject::Other(subject)).into());
        }
        forwards.retain(|it| self.all || self.names.iter().any(|name| name.as_str() == it.name));
        let dir = registry_dir()?;
        for forward in &forwards {
            registry::stop(&dir, forward)
                .await
                .map_err(|e| Error::io(format!("stopping process {}", forward.pid), e))?;
        }
        let names: Vec<&str> = forwards.iter().map(|it| it.name.as_str()).collect();
        let sentence = match names[..] {
            [] => "No ports are forwarded.".to_owned(),
            _ => format!("Stopped forwarding for {}", names.join(", ")),
        };
        context.ui.done(&sentence, &forwards);
        Ok(())
    }
}

fn registered() -> anyhow::Result<Vec<Forward>> {
    let dir = registry_dir()?;
    Ok(registry::list(&dir).map_err(|e| Error::io(format!("reading {}", dir.display()), e))?)
}
