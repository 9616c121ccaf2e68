//! `pixels forward`

mod background;
mod foreground;
mod manage;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Context, completions};
use crate::forward::Port;
use crate::forward::registry::Forward;
use crate::model::Name;
use crate::user_dirs;

/// Forward local ports to ports of a pixel
///
/// Connections go through the Incus API: they need no network in the pixel and work
/// with a remote server. Forwarding ends with Ctrl-C or, in the background, with:
/// pixels forward stop NAME
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = examples!(
    "pixels forward box 8080"
    "pixels forward box 8000:80 5432"
    "pixels forward box 0:80 --background"
    "pixels forward stop box"
))]
pub struct ForwardArgs {
    #[command(subcommand)]
    command: Option<ForwardCommand>,
    /// Name of the pixel
    #[arg(required = true, add = completions::pixels())]
    name: Option<Name>,
    /// Port of the pixel, and the local port if it differs; 0 picks a free local port
    #[arg(required = true, value_name = "[LOCAL:]PORT")]
    ports: Vec<Port>,
    /// Return when the ports are open, and forward in the background
    #[arg(short, long)]
    background: bool,
    /// This is the background process
    #[arg(long, hide = true, conflicts_with = "background")]
    detached: bool,
}

#[derive(Debug, Subcommand)]
enum ForwardCommand {
    List(manage::ListArgs),
    Stop(manage::StopArgs),
}

impl ForwardArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match (self.command, self.name) {
            (Some(ForwardCommand::List(args)), _) => args.run(context),
            (Some(ForwardCommand::Stop(args)), _) => args.run(context).await,
            (None, Some(name)) if self.background => background::run(context, &name).await,
            (None, Some(name)) => foreground::run(context, &name, &self.ports, self.detached).await,
            (None, None) => Ok(()),
        }
    }
}

/// Returns the directory with the records of this user's forwards.
fn registry_dir() -> anyhow::Result<PathBuf> {
    Ok(user_dirs::state_dir(&|name| std::env::var_os(name))?.join("forwards"))
}

/// Describes each forwarded port in a line.
fn description(forward: &Forward) -> String {
    let lines = forward.ports.iter().map(|port| {
        format!(
            "Forwarding 127.0.0.1:{} to port {} of {}\n",
            port.local, port.remote, forward.name
        )
    });
    lines.collect()
}
