//! Shows the current step: a spinner on a terminal, or lines with `-v`.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::DRAW_DELAY;
use crate::plain::plain_line;

/// A spinner. Dropping this value removes the spinner from the screen.
pub struct Spinner {
    verbose: bool,
    bar: Option<ProgressBar>,
}

impl Spinner {
    /// Creates a spinner. Must be called inside the async runtime.
    pub(super) fn new(verbose: bool, silent: bool) -> Self {
        let shown = !verbose && !silent && std::io::stderr().is_terminal();
        let bar = shown.then(ProgressBar::hidden);
        if let Some(bar) = bar.clone() {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            tokio::spawn(async move {
                tokio::time::sleep(DRAW_DELAY).await;
                if !bar.is_finished() {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
            });
        }
        Self { verbose, bar }
    }

    pub fn step(&self, step: &str) {
        let step = plain_line(step);
        match &self.bar {
            Some(bar) => bar.set_message(step.into_owned()),
            None if self.verbose => super::stderr("", &format!("{step}...\n")),
            None => {}
        }
    }

    /// Hides the spinner while `print` writes to the terminal.
    pub fn suspend(&self, print: impl FnOnce()) {
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
