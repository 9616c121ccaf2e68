//! `pixels mcp`

mod install;
mod serve;

use clap::{Args, Subcommand};

use super::{Context, from_settings};
use crate::config::Flags;

/// Serve sandboxes to AI agents over the Model Context Protocol
///
/// Without flags, serves HTTP on the setting mcp.listen_addr and a Unix socket until
/// interrupted. A sandbox is a pixel: all other commands work on sandboxes too.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = examples!(
    "pixels mcp install --client claude --write"
    "pixels mcp --stdio"
    "pixels mcp --listen-addr 127.0.0.1:8765"
))]
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

    /// Whether the command is a server. Servers log even without `-v`.
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
