//! The speed of pixels beside the `incus` client and the bare API, measured
//! on the real daemon of this machine.
//!
//! ```text
//! cargo bench                        all rows
//! cargo bench -- exec list           rows by name
//! cargo bench -- --help              the options
//! ```
//!
//! What is compared in a row takes turns (A B C, B C A, C A B, …) after a
//! warm-up, so that whatever else the machine does hits all alike; medians are
//! shown, and only ratios are judged. Processes are timed from before they
//! are spawned until they have ended. The daemon must already run
//! (`pixels setup`); rows that need something this machine lacks are listed as
//! not measured, with the reason.
//!
//! The benchmark builds the binary with the cargo profile `dist`: static for
//! `*-unknown-linux-musl` if that target is installed (`rustup target add`),
//! otherwise for the host.
//!
//! Everything is made in an Incus project of its own, `px-t-bench-PID`, so that
//! a list holds exactly what was put there. It is removed at the end, also
//! after an error or a signal; after a SIGKILL by the next run.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod api;
mod args;
mod binary;
mod files;
#[path = "../it/support/http.rs"]
mod http;
mod lab;
mod measure;
mod network;
mod process;
mod report;
mod rows;
mod sandboxes;

use std::cell::RefCell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;

use args::Args;
use lab::Lab;
use report::Report;
use rows::{Bench, ROWS};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.bench {
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let chosen = args.choose(ROWS)?;
    watch_signals()?;
    let binary = binary::under_test(args)?;
    let incus = process::find("incus");
    let lab = if chosen.iter().any(|row| row.needs_daemon()) {
        Lab::open(&binary.path).map_err(|error| format!("{error:#}"))
    } else {
        Err("no row needs it".to_owned())
    };
    let mut report = Report::new(args, &binary, lab.as_ref().ok());
    let bench = Bench {
        runs: args.runs(),
        binary: &binary,
        earlier: args.earlier.as_deref(),
        incus: incus.as_deref(),
        lab: lab.as_ref(),
        notes: RefCell::default(),
    };
    for row in chosen {
        report.rows.push((row, bench.measure(row)?));
    }
    report.notes = bench.notes.into_inner();
    if let Ok(lab) = lab {
        report.notes.push(lab.close()?);
    }
    println!("{report}");
    if let Some(file) = &args.json {
        std::fs::write(file, report.json()).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// Between two steps of the benchmark: ends it when a signal asked for that.
fn go_on() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// The first signal ends the benchmark in order, a second one at once.
fn watch_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(inside);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => 2,
                    _ = terminate.recv() => 15,
                };
                if INTERRUPTED.swap(true, Ordering::Relaxed) {
                    eprintln!("bench: left at once; the next run removes what is there");
                    std::process::exit(128 + number);
                }
                eprintln!("bench: ending, and removing what was made");
            }
        });
    });
    Ok(())
}
