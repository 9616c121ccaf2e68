//! `pixels forward`

mod background;
mod list;
mod run;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use super::{Context, completions};
use crate::forward::Port;
use crate::model::Name;
use crate::user_dirs;

/// Make ports of a pixel reachable on this machine's loopback
///
/// Works for every pixel, whatever its network and wherever its server. Ends
/// with Ctrl-C, or, in the background, with: pixels forward stop NAME
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ForwardArgs {
    #[command(subcommand)]
    command: Option<ForwardCommand>,
    /// Name of the pixel; px-NAME is the same
    #[arg(required = true, add = ArgValueCandidates::new(completions::pixels))]
    name: Option<Name>,
    /// A port in the pixel, with the port here before it where that differs; 0 takes a free one
    #[arg(required = true, value_name = "[LOCAL:]PORT")]
    ports: Vec<Port>,
    /// Return when the ports are open, and go on without a terminal
    #[arg(short, long)]
    background: bool,
    /// We are the process in the background
    #[arg(long, hide = true, conflicts_with = "background")]
    detached: bool,
}

#[derive(Debug, Subcommand)]
enum ForwardCommand {
    List(list::ListArgs),
    Stop(list::StopArgs),
}

impl ForwardArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match (self.command, self.name) {
            (Some(ForwardCommand::List(args)), _) => args.run(context),
            (Some(ForwardCommand::Stop(args)), _) => args.run(context).await,
            (None, Some(name)) if self.background => background::run(context, &name).await,
            (None, Some(name)) => run::run(context, &name, &self.ports, self.detached).await,
            (None, None) => Ok(()),
        }
    }
}

/// Where this user's forwards are on record.
fn folder() -> anyhow::Result<PathBuf> {
    let env = |name: &str| std::env::var_os(name);
    Ok(user_dirs::state_dir(&env)?.join("forwards"))
}
