//! Benchmarks pixels against the `incus` client and the bare API, on this
//! machine's Incus daemon.
//!
//! ```text
//! cargo bench                        all rows
//! cargo bench -- exec list           rows by name
//! cargo bench -- --help              the options
//! ```
//!
//! After a warm-up, the programs of a row run in turns (A B C, B C A, C A B,
//! …), so that other load on the machine affects all programs alike. The report
//! shows medians; most targets are ratios. The time of a process includes the
//! spawn. The daemon must already run (`pixels setup`). Rows that need
//! something that this machine lacks are listed as not measured, with the
//! reason.
//!
//! The benchmark builds the binary with the cargo profile `dist`: static for
//! `*-unknown-linux-musl` if that target is installed (`rustup target add`),
//! otherwise for the host.
//!
//! All instances are created in a separate Incus project, `px-t-bench-PID`. The
//! project is deleted at the end, also after an error or a signal. After
//! SIGKILL, the next run deletes the project.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod api;
mod args;
mod binary;
mod crowd;
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
        Err("no selected row needs the daemon".to_owned())
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
        match bench.measure(row) {
            Ok(outcome) => report.rows.push((row, outcome)),
            Err(error) => {
                println!("{report}");
                return Err(error);
            }
        }
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

/// Fails if a signal was received. Called between benchmark steps.
fn go_on() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// The first signal ends the benchmark, the second exits immediately.
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
                    eprintln!("bench: exiting; the next run deletes the leftovers");
                    std::process::exit(128 + number);
                }
                eprintln!("bench: interrupted, deleting the instances");
            }
        });
    });
    Ok(())
}
