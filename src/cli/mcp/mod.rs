//! `pixels mcp`: sandboxes for AI agents

mod install;
mod serve;

use clap::{Args, Subcommand};

use super::{Context, from_settings};
use crate::config::Flags;

/// Serve sandboxes to AI agents over the Model Context Protocol
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct McpArgs {
    #[command(subcommand)]
    command: Option<McpCommand>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Subcommand)]
enum McpCommand {
    Install(install::InstallArgs),
}

impl McpArgs {
    pub fn flags(&self) -> Flags {
        self.serve.flags()
    }

    /// Tells what it does even when nobody asked.
    pub fn is_server(&self) -> bool {
        self.command.is_none()
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            Some(McpCommand::Install(args)) => args.run(context),
            None => self.serve.run(context).await,
        }
    }
}
