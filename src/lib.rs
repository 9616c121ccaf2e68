//! pixels: disposable Linux machines for AI coding agents.
//!
//! This page is the guide to the source. `cargo doc --open --document-private-items`
//! renders it with links; `.github/CONTRIBUTING.md` has the rules for changes.
//!
//! # Layers
//!
//! A part uses only parts above it in this table. `tests/it/layering.rs` holds the
//! exact edges, and fails on an edge that is not listed and on one that is unused.
//!
//! | part | what it holds |
//! |---|---|
//! | [`model`] | names, types, errors, and the traits `Backend` (all pixels of one server) and `Guest` (inside of one pixel) |
//! | [`retry`], [`file_lock`], [`secret`], `term`, `ui` | helpers without knowledge of pixels |
//! | [`config`] | settings from defaults, file, `PIXELS_*` variables and flags |
//! | [`egress`] | policies, and what they become: nftables rules and dnsmasq configuration, for the gateway and for the inside of a pixel |
//! | [`provision`] | plan of users, files and steps in a new pixel, applied through `Guest` |
//! | [`transfer`], [`forward`] | files in and out, ports, through `Guest` |
//! | `backend::incus`, `backend::truenas` | the two implementations of `Backend`; they know nothing of provisioning and egress |
//! | [`host`] | `setup` and `doctor`: facts about the host, a plan of steps, checks |
//! | [`lifecycle`] | what commands and servers do to pixels: create, start, fork, restore, exec, policy, expiry, clean-up |
//! | [`base`] | building prepared pixels |
//! | [`mcp`] | the MCP server: sandboxes for agents |
//! | `cli`, `exit`, `signal` | the command tree, exit codes, signals; one file per command |
//!
//! A command travels `cli` → `lifecycle` → `Backend` → server. `Backend` methods are
//! single requests; everything with an order, a rollback or a policy is in
//! `lifecycle`, so that both backends and both front ends (`cli`, `mcp`) share it.
//!
//! # Where is …
//!
//! | question | file | function |
//! |---|---|---|
//! | the exit code of a timed-out `exec`, and of every other failure | `exit.rs` | `classify` |
//! | the MAC address of a clone | `backend/incus/create.rs` | `fork` |
//! | the preset of the mode `agent` | `egress/presets.toml` | |
//! | the DHCP reservation of a pixel | `egress/gateway/dhcp.rs` | `reservation` |
//! | what Ctrl-C does to a `fork` | `lifecycle/fork.rs`, `lifecycle/rollback.rs` | `Rollback::unwind` |
//! | the idle stop of an MCP sandbox | `mcp/reaper.rs` | `decide` |
//! | the lock that a restore takes | `backend/incus/instance_lock.rs` | `lock_exclusive` |
//! | how a large file is pushed | `transfer/sftp_push.rs` | `push` |
//! | which server messages are retried | `backend/incus/messages.rs`, `backend/incus/operation.rs` | `retry_while_busy` |
//! | how TrueNAS clones | `backend/truenas/clone.rs` | `fork` |
//! | where the MCP token is checked | `mcp/auth.rs` | `Authenticator::check` |
//! | where hints come from | `cli/error_report.rs` | `hint` |
//!
//! # How to add …
//!
//! **A command**: a file in `cli/` with a clap `Args` struct, a help text with
//! examples and a `run` of a call or two; a variant of `cli::Command` and a row in
//! its group. Loops and decisions go to `lifecycle`. Run the tests once with
//! `INSTA_UPDATE=always` to record the help page, and read it.
//!
//! **A setting**: one row in `config` and the line with its default in
//! `config.example.toml`; a test compares the two. Commands read settings in
//! `cli/from_settings/`, never deeper.
//!
//! **An MCP tool**: a method with `#[tool]` and its argument struct in `mcp/tools/`,
//! the work in a method of `mcp::service::Service`. Field comments become the
//! schema. README's table of tools lists it, which a test checks.
//!
//! **A backend**: a folder in `backend/` that implements [`model::Backend`] and
//! [`model::Guest`]; contracts are on the trait methods. Map all of the server's
//! errors to [`model::Error`] in one place, list its decisive messages with recorded
//! samples in `messages.rs`, and open it in [`backend::open`].
//!
//! **A server message that decides something**: a row in the backend's
//! `messages.rs` with the text as the server sent it.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | pixel | a disposable instance that pixels manages, `px-NAME` on the server |
//! | instance | what Incus or TrueNAS calls it |
//! | backend | the server behind `Backend`: Incus or TrueNAS |
//! | guest | the inside of an instance |
//! | base | a template pixel for clones |
//! | checkpoint | a snapshot with a label |
//! | clone, fork | a copy of a pixel or checkpoint; N clones at once |
//! | gateway | the instance that enforces egress policies |
//! | isolated bridge | the network between pixels and gateway, without an address of the host |
//! | egress policy | a mode and rules |
//! | rule | a host, wildcard or CIDR, with an optional port |
//! | guest policy | an egress policy that the pixel enforces itself, where there is no gateway |
//! | sandbox | MCP's word for one pixel |
//! | provisioning step | a systemd unit in the pixel that installs something |
//! | session | a console that survives the connection, kept by tmux or zmx |
//! | expiry | the time after which a pixel is deleted |
//! | creator | the process that creates a pixel, recorded on it until it is complete |
//! | orphan | an incomplete pixel or temporary checkpoint whose creator no longer runs |

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backend;
pub mod base;
mod cli;
pub mod config;
pub mod egress;
mod exit;
pub mod file_lock;
pub mod forward;
pub mod host;
pub mod lifecycle;
pub mod mcp;
pub mod model;
pub mod provision;
pub mod retry;
pub mod secret;
mod signal;
mod term;
pub mod transfer;
mod ui;
pub mod user_dirs;

#[cfg(test)]
mod fuzz;

use std::process::ExitCode;

use cli::{Cli, Context};
use config::Settings;
use signal::Signals;
use ui::Ui;

/// Parses the command line, runs the command, prints its failure, and returns the
/// exit code.
pub fn run() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(cli::command).complete();
    let cli = match Cli::from_env() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ui = cli.global.ui();
    trace(cli.global.verbose, cli.command.is_server());
    if let Some(outcome) = cli.command.standalone(&ui) {
        return finish(&ui, outcome, false, None);
    }
    let own_codes = cli.command.exits_with_guest_status();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return finish(&ui, Err(error.into()), own_codes, None),
    };
    let (outcome, signal) = runtime.block_on(async {
        let signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return (Err(error.into()), None),
        };
        let outcome = dispatch(cli, ui, signals.clone()).await;
        (outcome, signals.exit_code())
    });
    // A read from stdin may never return: exit without waiting for its thread.
    runtime.shutdown_background();
    finish(&ui, outcome, own_codes, signal)
}

async fn dispatch(cli: Cli, ui: Ui, signals: Signals) -> anyhow::Result<()> {
    let (file, flags) = (cli.global.config.as_deref(), cli.command.flags());
    let loaded = Settings::load(file, &|name| std::env::var_os(name), &flags)?;
    for warning in &loaded.warnings {
        ui.warn(&warning.to_string());
    }
    let context = Context::new(loaded, ui, signals);
    let outcome = cli.command.run(&context).await;
    context.close().await;
    outcome
}

fn finish(ui: &Ui, outcome: anyhow::Result<()>, own_codes: bool, signal: Option<u8>) -> ExitCode {
    let error = match (outcome, ui::write_error()) {
        (Err(error), _) => error,
        (Ok(()), Some(lost)) => lost.into(),
        (Ok(()), None) => return ExitCode::SUCCESS,
    };
    let (mut code, _) = exit::classify(&error);
    if error.is::<exit::ExitWith>() {
        return ExitCode::from(code);
    }
    if code == exit::INTERRUPTED {
        code = signal.unwrap_or(code);
    } else if own_codes && !matches!(code, exit::USAGE | exit::OVER_TIME) {
        code = exit::EXEC;
    }
    cli::error_report::report(ui, &error, code);
    ExitCode::from(code)
}

/// Prints clap's outcome: help and versions to stdout, usage errors to stderr (as
/// JSON if the arguments ask for JSON).
fn usage(error: &clap::Error) -> ExitCode {
    // `pixels` or `pixels checkpoint` without a subcommand prints the help.
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        Ui::default().text(&format!("{}", error.render()));
        return finish(&Ui::default(), Ok(()), false, None);
    }
    let words = std::env::args_os().take_while(|word| word != "--");
    let words = Vec::from_iter(words.map(|word| word.to_string_lossy().into_owned()));
    let is_json = |pair: &[String]| match pair[0].as_str() {
        "-o" | "--output" => pair.get(1).is_some_and(|format| format == "json"),
        word => ["--json", "-ojson", "-o=json", "--output=json"].contains(&word),
    };
    let json = (0..words.len()).any(|index| is_json(&words[index..]));
    if json && error.use_stderr() {
        let ui = Ui {
            format: ui::Format::Json,
            ..Ui::default()
        };
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim();
        let error = anyhow::Error::new(exit::Usage(text.to_owned()));
        cli::error_report::report(&ui, &error, exit::USAGE);
    } else {
        let printed = error.print();
        if !error.use_stderr() {
            ui::record_write(printed);
            return finish(&Ui::default(), Ok(()), false, None);
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}

/// Starts logging to stderr: `-vv` logs every request, a server its sandboxes'
/// changes; `PIXELS_LOG` is a filter in the syntax of tracing-subscriber.
fn trace(verbosity: u8, server: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = match std::env::var("PIXELS_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::new(filter),
        _ if verbosity > 1 => EnvFilter::new("pixels=debug"),
        _ if server && verbosity > 0 => EnvFilter::new("pixels=info,pixels::mcp=debug"),
        _ if server => EnvFilter::new("pixels=info"),
        _ => return,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
