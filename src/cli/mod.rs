//! The command line.
//!
//! Each command is a file (or a folder, for a command with subcommands) with
//! its arguments, its table rows and a `run` function that calls one or two
//! functions of the library and prints the result. Code that commands share is
//! in `attach`, `console_session`, `context`, `duration_arg`, `from_settings`,
//! `pixel_arg`, `pixel_list`, `prepare_host` and `provisioning_report`.

#[macro_use]
mod help;

mod attach;
mod base;
mod checkpoint;
mod completions;
mod config;
mod console;
mod console_session;
mod context;
mod create;
mod destroy;
mod doctor;
mod duration_arg;
pub mod error_report;
mod events;
mod exec;
mod expire;
mod files;
mod fork;
mod forward;
mod from_settings;
mod list;
mod man;
mod mcp;
mod network;
mod pixel_arg;
mod pixel_list;
mod prepare_host;
mod provision;
mod provisioning_report;
mod prune;
mod quickstart;
mod sessions;
mod setup;
mod start;
mod status;
mod stop;
mod top;

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use context::Context;

use crate::config::Flags;
use crate::ui;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PIXELS_COMMIT"), ")");

/// Disposable Linux machines for AI coding agents, on your own Incus
#[derive(Debug, Parser)]
#[command(name = "pixels", version = VERSION, arg_required_else_help = true)]
#[command(after_help = help::MAIN_EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The command tree.
pub fn command() -> clap::Command {
    help::with_groups(Cli::command())
}

impl Cli {
    /// Parses the arguments of the process.
    pub fn from_env() -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Output format
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    output: ui::Format,
    /// Same as --output json
    #[arg(long, global = true)]
    json: bool,
    /// Print no progress and no success messages
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print each step; -vv also logs every request
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Configuration file to read instead of the default file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Global {
    pub fn ui(&self) -> ui::Ui {
        ui::Ui {
            format: match self.json {
                true => ui::Format::Json,
                false => self.output,
            },
            quiet: self.quiet,
            verbose: self.verbose > 0,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Create(create::CreateArgs),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Destroy(destroy::DestroyArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Exec(exec::ExecArgs),
    Push(files::PushArgs),
    Pull(files::PullArgs),
    Sync(files::SyncArgs),
    Forward(forward::ForwardArgs),
    Console(console::ConsoleArgs),
    Sessions(sessions::SessionsArgs),
    Status(status::StatusArgs),
    Provision(provision::ProvisionArgs),
    #[command(visible_alias = "cp", subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    Fork(fork::ForkArgs),
    #[command(subcommand)]
    Network(network::NetworkCommand),
    #[command(subcommand)]
    Base(base::BaseCommand),
    Mcp(mcp::McpArgs),
    Expire(expire::ExpireArgs),
    Prune(prune::PruneArgs),
    Events(events::EventsArgs),
    Top(top::TopArgs),
    Setup(setup::SetupArgs),
    Doctor(doctor::DoctorArgs),
    Quickstart(quickstart::QuickstartArgs),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    #[command(alias = "completion")]
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Command {
    /// The settings that command-line flags override.
    pub fn flags(&self) -> Flags {
        match self {
            Self::Create(args) => args.flags(),
            Self::Mcp(args) => args.flags(),
            _ => Flags::default(),
        }
    }

    /// Whether the command is a server. Servers log even without `-v`.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Mcp(args) if args.is_server())
    }

    /// Whether the exit code of the command is that of a command in a pixel.
    pub fn exits_with_guest_status(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Console(_))
    }

    /// Runs a command that needs neither settings nor a server.
    pub fn standalone(&self, ui: &ui::Ui) -> Option<anyhow::Result<()>> {
        match self {
            Self::Completions(args) => Some(args.run(ui)),
            Self::Man(args) => Some(args.run(ui)),
            _ => None,
        }
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Create(args) => args.run(context).await,
            Self::Start(args) => args.run(context).await,
            Self::Stop(args) => args.run(context).await,
            Self::Destroy(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Exec(args) => args.run(context).await,
            Self::Push(args) => args.run(context).await,
            Self::Pull(args) => args.run(context).await,
            Self::Sync(args) => args.run(context).await,
            Self::Forward(args) => args.run(context).await,
            Self::Console(args) => args.run(context).await,
            Self::Sessions(args) => args.run(context).await,
            Self::Status(args) => args.run(context).await,
            Self::Provision(args) => args.run(context).await,
            Self::Checkpoint(command) => command.run(context).await,
            Self::Fork(args) => args.run(context).await,
            Self::Network(command) => command.run(context).await,
            Self::Base(command) => command.run(context).await,
            Self::Mcp(args) => args.run(context).await,
            Self::Expire(args) => args.run(context).await,
            Self::Prune(args) => args.run(context).await,
            Self::Events(args) => args.run(context).await,
            Self::Top(args) => args.run(context).await,
            Self::Setup(args) => args.run(context).await,
            Self::Doctor(args) => args.run(context).await,
            Self::Quickstart(args) => args.run(context).await,
            Self::Config(command) => {
                command.run(context);
                Ok(())
            }
            Self::Completions(_) | Self::Man(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod help_test;
