//! `pixels forward list` and `stop`

use clap::Args;
use serde::Serialize;

use super::folder;
use crate::cli::Context;
use crate::exit::Usage;
use crate::forward::registry::{self, Forward};
use crate::model::{Error, Name, Subject};
use crate::ui::Row;

/// List what this user forwards
#[derive(Debug, Args)]
pub struct ListArgs {}

/// End forwards that run in the background, or elsewhere
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Of these pixels
    names: Vec<Name>,
    /// All of them
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct ForwardRow(Forward);

impl Row for ForwardRow {
    const HEADERS: &'static [&'static str] = &["NAME", "LOCAL", "PORT", "PID", "BACKGROUND"];

    fn cells(&self) -> Vec<String> {
        let each = |of: &dyn Fn(&crate::forward::Port) -> String| {
            self.0.ports.iter().map(of).collect::<Vec<_>>().join(",")
        };
        vec![
            self.0.name.clone(),
            each(&|port| format!("127.0.0.1:{}", port.local)),
            each(&|port| port.remote.to_string()),
            self.0.pid.to_string(),
            if self.0.background { "yes" } else { "no" }.into(),
        ]
    }
}

impl ListArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let lines: Vec<ForwardRow> = registered()?.into_iter().map(ForwardRow).collect();
        context.ui.rows(&lines, "Nothing is forwarded.");
        Ok(())
    }
}

impl StopArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        if self.names.is_empty() && !self.all {
            return Err(Usage("name the pixels, or say --all".into()).into());
        }
        let present = registered()?;
        let none = |name: &&Name| !present.iter().any(|one| one.name == name.as_str());
        if let Some(name) = self.names.iter().find(none) {
            let what = format!("a forward of pixel {:?}", name.as_str());
            return Err(Error::NotFound(Subject::Other(what)).into());
        }
        let folder = folder()?;
        let mut lines = Vec::new();
        for one in present {
            if self.all || self.names.iter().any(|name| name.as_str() == one.name) {
                let doing = |e| Error::io(format!("ending process {}", one.pid), e);
                registry::stop(&folder, &one).await.map_err(doing)?;
                lines.push(one);
            }
        }
        let names: Vec<&str> = lines.iter().map(|one| one.name.as_str()).collect();
        let sentence = match names[..] {
            [] => "Nothing is forwarded.".to_owned(),
            _ => format!("Ended the forwards of {}", names.join(", ")),
        };
        context.ui.done(&sentence, &lines);
        Ok(())
    }
}

fn registered() -> anyhow::Result<Vec<Forward>> {
    let folder = folder()?;
    let doing = |e| Error::io(format!("reading {}", folder.display()), e);
    Ok(registry::list(&folder).map_err(doing)?)
}
