//! What a longer command is doing: a spinner on a terminal, plain lines with
//! `-v`, silence otherwise.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Fast commands finish before anything flickers.
const QUIET_FOR: Duration = Duration::from_millis(250);

pub struct Spinner {
    verbose: bool,
    bar: Option<ProgressBar>,
    last: Mutex<String>,
}

impl Spinner {
    pub(super) fn new(verbose: bool, silent: bool) -> Self {
        let bar = (!verbose && !silent && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::hidden();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar
        });
        if let Some(bar) = &bar {
            let bar = bar.clone();
            tokio::spawn(async move {
                tokio::time::sleep(QUIET_FOR).await;
                if !bar.is_finished() {
                    bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
            });
        }
        Self {
            verbose,
            bar,
            last: Mutex::default(),
        }
    }

    pub fn step(&self, phase: &str) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = phase.to_owned();
        match &self.bar {
            Some(bar) => bar.set_message(phase.to_owned()),
            None if self.verbose => super::stderr(&format!("{phase}...\n")),
            None => {}
        }
    }

    /// Prints something while the progress line is out of the way.
    pub fn above(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
