//! pixels: disposable Linux machines for AI coding agents.
//!
//! This page is a guide to the source code. `.github/CONTRIBUTING.md` has the rules
//! for changes. To read with links: `cargo doc --open --document-private-items`.
//!
//! # Layers
//!
//! A part depends only on parts above it in this table. `tests/it/layering.rs`
//! lists the allowed dependencies, and fails on unlisted and unused entries.
//!
//! | part | contents |
//! |---|---|
//! | [`model`] | names, types, errors, and the traits `Backend` (all pixels of one server) and `Guest` (the inside of one pixel) |
//! | [`retry`], [`file_lock`], [`secret`], `plain`, `term`, `ui` | general helpers |
//! | [`config`] | settings from defaults, file, `PIXELS_*` variables and flags |
//! | [`egress`] | egress policies, and the nftables rules and dnsmasq configuration generated from them |
//! | [`provision`] | provisioning of a new pixel with users, files and steps, through `Guest` |
//! | [`transfer`], [`forward`] | file transfer and port forwarding, through `Guest` |
//! | `backend::incus`, `backend::truenas` | the two implementations of `Backend`, independent of provisioning and egress |
//! | [`host`] | `setup` and `doctor`: facts about the host, setup steps, checks |
//! | [`lifecycle`] | operations on pixels: create, start, fork, restore, exec, policy, expiry, cleanup |
//! | [`base`] | building base pixels |
//! | [`mcp`] | the MCP server: sandboxes for agents |
//! | `cli`, `exit`, `signal` | the command tree (one file per command), exit codes, signals |
//!
//! A command calls `cli` → `lifecycle` → `Backend` → server. Each `Backend`
//! method is a single request. Ordering, rollback and policies are in
//! `lifecycle`, which both backends and both front ends (`cli`, `mcp`) share.
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
//! | the frames that a pixel may send and receive | `backend/incus/host/port-security.sh` | |
//! | the lock during a restore | `backend/incus/instance_lock.rs` | `lock` |
//! | the push of a large file | `transfer/sftp_push.rs` | `push` |
//! | which server messages are retried | `backend/incus/messages.rs`, `backend/incus/operation.rs` | `retry_while_busy` |
//! | how TrueNAS clones a pixel | `backend/truenas/clone.rs` | `fork` |
//! | the check of the MCP token | `mcp/auth.rs` | `Authenticator::check` |
//! | the attempts of `doctor --walls` | `lifecycle/walls/behind_gateway.rs`, `lifecycle/walls/inside_pixel.rs` | `run` |
//! | the hints of error messages | `cli/error_report.rs` | `hint` |
//! | the characters that output does not contain | `plain.rs` | `is_hidden` |
//! | the limits of MCP results | `mcp/truncate.rs` | |
//!
//! # How to add …
//!
//! **A command**: Create a file in `cli/` with a clap `Args` struct, a help
//! text with examples, and a short `run`. Add a variant to `cli::Command`, and
//! a row to its group. Put loops and decisions into `lifecycle`. Run the tests
//! once with `INSTA_UPDATE=always` to record the help page, and read the page.
//!
//! **A setting**: Add a row to `config`, and a line with the default value to
//! `config.example.toml`. A test compares the two. Commands read settings only
//! in `cli/from_settings/`.
//!
//! **An MCP tool**: Add a method with `#[tool]` and an argument struct to `mcp/tools/`,
//! and the implementation to `mcp::service::Service`. Field comments become the schema.
//! A test checks that the README's table lists the tool.
//!
//! **A backend**: Add a folder to `backend/` that implements [`model::Backend`] and
//! [`model::Guest`] as documented there. Map all server errors to [`model::Error`] in
//! one place, list the messages that pixels interprets with recorded samples in
//! `messages.rs`, and open the backend in [`backend::open`].
//!
//! **A server message that pixels interprets**: Add a row with the server's
//! exact text to the backend's `messages.rs`.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | pixel | a disposable instance managed by pixels, named `px-NAME` on the server |
//! | instance | the term of Incus and TrueNAS for a container |
//! | backend | the server behind `Backend`: Incus or TrueNAS |
//! | guest | the inside of an instance |
//! | base | a template pixel for clones |
//! | checkpoint | a snapshot with a label |
//! | clone, fork | a copy of a pixel or checkpoint; N clones in one command |
//! | gateway | the instance that enforces egress policies |
//! | isolated bridge | the network between pixels and gateway, on which the host has no address |
//! | egress policy | a mode and a list of rules |
//! | rule | a host, wildcard or CIDR, with an optional port |
//! | guest policy | an egress policy that a pixel without a gateway enforces itself |
//! | sandbox | the MCP server's word for a pixel |
//! | provisioning step | a systemd unit in the pixel that installs software |
//! | session | a console that survives the connection, kept by tmux or zmx |
//! | expiry | the time after which a pixel is deleted |
//! | creator | the process that creates a pixel, recorded on the pixel until completion |
//! | orphan | an incomplete pixel or temporary checkpoint whose creator has exited |

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
mod plain;
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

use std::backtrace::{Backtrace, BacktraceStatus};
use std::process::ExitCode;

use cli::{Cli, Context};
use config::Settings;
use signal::Signals;
use ui::Ui;

/// Parses the command line, runs the command, prints the error if the command
/// fails, and returns the exit code.
pub fn run() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(cli::command).complete();
    // The message of a panic may quote text of a server.
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        let shown = matches!(trace.status(), BacktraceStatus::Captured);
        let trace = if shown {
            trace.to_string()
        } else {
            String::new()
        };
        Ui::default().relay(&format!("{panic}\n{trace}"));
    }));
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
    // A read from stdin may never return, so exit without waiting for its thread.
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

/// Prints clap's output: help and versions to stdout, usage errors to stderr,
/// or as JSON if the arguments request JSON. Usage errors are plain text, because
/// they quote arguments.
fn usage(error: &clap::Error) -> ExitCode {
    // `pixels` or `pixels checkpoint` without a subcommand prints the help.
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        Ui::default().text(&error.render().to_string());
        return finish(&Ui::default(), Ok(()), false, None);
    }
    let words = std::env::args_os().take_while(|word| word != "--");
    let words = Vec::from_iter(words.map(|word| word.to_string_lossy().into_owned()));
    let is_json = |pair: &[String]| match pair[0].as_str() {
        "-o" | "--output" => pair.get(1).is_some_and(|format| format == "json"),
        word => ["--json", "-ojson", "-o=json", "--output=json"].contains(&word),
    };
    let json = (0..words.len()).any(|index| is_json(&words[index..]));
    if !error.use_stderr() {
        // Help pages and versions contain no arguments of the user.
        ui::record_write(error.print());
        return finish(&Ui::default(), Ok(()), false, None);
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim();
    if json {
        let ui = Ui {
            format: ui::Format::Json,
            ..Ui::default()
        };
        let error = anyhow::Error::new(exit::Usage(text.to_owned()));
        cli::error_report::report(&ui, &error, exit::USAGE);
    } else {
        Ui::default().usage_error(text);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}

/// Starts logging to stderr: every request with `-vv`, sandbox changes in an
/// MCP server. `PIXELS_LOG` sets a filter in the syntax of tracing-subscriber.
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
        .with_writer(|| ui::LogLine)
        .with_ansi(false)
        .init();
}
