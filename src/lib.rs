//! pixels: disposable Linux machines for AI coding agents.
//!
//! Layers, each using only those before it: `sandbox` (the vocabulary),
//! `config`, `ui`, `term`, `transfer`, `forward`, `host` and `backend::incus`;
//! `backend` (settings to backend); `lifecycle` (what is done to a pixel);
//! `base`; `mcp`; `cli`.

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

use clap::{CommandFactory, Parser};

use cli::{Cli, Context};
use config::Settings;
use signal::Signals;
use ui::Ui;

/// The whole program: parses the command line, runs the command, reports, and
/// returns the exit code.
pub fn run() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ui = cli.global.ui();
    trace(cli.global.verbosity(), cli.command.is_server());
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
    // A read from stdin may still be waiting; it must not hold us up.
    runtime.shutdown_background();
    finish(&ui, outcome, own_codes, signal)
}

async fn dispatch(cli: Cli, ui: Ui, signals: Signals) -> anyhow::Result<()> {
    let env = |name: &str| std::env::var_os(name);
    let loaded = Settings::load(cli.global.config.as_deref(), &env, &cli.command.flags())?;
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

/// What clap says: help and versions on stdout, mistakes on stderr, as JSON
/// when that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    // `pixels` or `pixels checkpoint` alone asks what there is.
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        Ui::default().text(&format!("{}", error.render()));
        return finish(&Ui::default(), Ok(()), false, None);
    }
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let mut words = words.take_while(|word| word != "--").peekable();
    let mut json = false;
    while let Some(word) = words.next() {
        json |= matches!(
            word.as_str(),
            "--json" | "-ojson" | "-o=json" | "--output=json"
        );
        json |= matches!(word.as_str(), "-o" | "--output")
            && words.peek().is_some_and(|next| next == "json");
    }
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

/// `-vv` logs every request, a server what happens to its sandboxes;
/// `PIXELS_LOG` takes a filter of its own.
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
