//! The command line: one file per command, each with its arguments and one
//! function that makes a call or two and shows the result.

mod base;
mod checkpoint;
mod completions;
mod config;
mod console;
mod context;
mod create;
mod destroy;
mod doctor;
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

mod provision;
mod prune;
mod quickstart;
mod sessions;
mod setup;

mod start;
mod status;
mod stop;
mod top;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use context::Context;

use crate::config::Flags;
use crate::ui;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PIXELS_COMMIT"), ")");

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failure, 2 wrong usage or configuration, 3 not found, \
4 already exists, 5 server not reachable or not authorised, 130 interrupted. \
exec and console end with the command's own code; 124 time limit, 125 failure \
of pixels itself, 126 not executable, 127 no such command, 128+N killed by signal N.";

/// Disposable Linux machines for AI coding agents, on your own Incus
#[derive(Debug, Parser)]
#[command(name = "pixels", version = VERSION, after_help = EXIT_CODES, arg_required_else_help = true)]
#[command(disable_help_subcommand = false, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print results as a table or as JSON
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    output: Output,
    /// Short for --output json
    #[arg(long, global = true)]
    json: bool,
    /// Print results only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say what is done; twice for every request
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Read this configuration file instead of the usual one
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Global {
    pub fn ui(&self) -> ui::Ui {
        let json = self.json || matches!(self.output, Output::Json);
        ui::Ui {
            format: if json {
                ui::Format::Json
            } else {
                ui::Format::Table
            },
            quiet: self.quiet,
            verbose: self.verbose > 0,
        }
    }

    pub fn verbosity(&self) -> u8 {
        self.verbose
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
    /// Settings given on the command line.
    pub fn flags(&self) -> Flags {
        match self {
            Self::Create(args) => args.flags(),
            Self::Mcp(args) => args.flags(),
            _ => Flags::default(),
        }
    }

    /// A server tells what it does even when nobody asked.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Mcp(args) if args.is_server())
    }

    /// `exec` and `console` end with codes of their own.
    pub fn ends_like_its_command(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Console(_))
    }

    /// Works without configuration or server.
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
            Self::Config(command) => command.run(context),
            Self::Completions(_) | Self::Man(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_sound() {
        super::Cli::command().debug_assert();
    }

    /// Calls `look` with every command below `command`, and with its name.
    fn visit(command: &clap::Command, name: &str, look: &mut dyn FnMut(&clap::Command, &str)) {
        for below in command.get_subcommands() {
            let name = format!("{name} {}", below.get_name());
            look(below, &name);
            visit(below, &name, look);
        }
    }

    #[test]
    fn every_argument_is_explained() {
        let mut bare = Vec::new();
        visit(&super::Cli::command(), "pixels", &mut |command, name| {
            let arguments = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let unexplained = arguments.filter(|arg| arg.get_help().is_none());
            bare.extend(unexplained.map(|arg| format!("{name} {}", arg.get_id())));
        });
        assert_eq!(bare, [""; 0]);
    }

    #[test]
    fn what_every_command_takes_stands_apart_in_its_help() {
        let mut tree = super::Cli::command();
        tree.build();
        let mut seen = 0;
        visit(&tree, "pixels", &mut |command, name| {
            let Some(json) = command.get_arguments().find(|arg| arg.get_id() == "json") else {
                return;
            };
            seen += 1;
            assert_eq!(json.get_help_heading(), Some("Global options"), "{name}");
        });
        assert!(seen > 30, "{seen}");
    }
}
