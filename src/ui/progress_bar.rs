//! Shows a transfer's progress on a terminal: a bar with rate and remaining time.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::DRAW_DELAY;

const TICK: Duration = Duration::from_millis(100);
const KNOWN_TOTAL: &str = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
const UNKNOWN_TOTAL: &str = "{spinner} {bytes}  {bytes_per_sec}  {elapsed}";

/// A progress bar. Dropping this value removes the bar from the screen.
pub struct ProgressBar {
    shown: Option<(indicatif::ProgressBar, JoinHandle<()>)>,
}

impl ProgressBar {
    /// Creates a progress bar, which is hidden if not `enabled` or without a
    /// terminal. Must be called inside the runtime.
    pub(super) fn new(enabled: bool, progress: impl Fn() -> (u64, u64) + Send + 'static) -> Self {
        if !enabled || !std::io::stderr().is_terminal() {
            return Self { shown: None };
        }
        let bar = indicatif::ProgressBar::hidden();
        let drawn = bar.clone();
        let drawing = tokio::spawn(async move {
            tokio::time::sleep(DRAW_DELAY).await;
            drawn.set_draw_target(ProgressDrawTarget::stderr());
            let mut template = "";
            loop {
                let (done, total) = progress();
                let wanted = if total > 0 {
                    KNOWN_TOTAL
                } else {
                    UNKNOWN_TOTAL
                };
                if template != wanted
                    && let Ok(style) = ProgressStyle::with_template(wanted)
                {
                    template = wanted;
                    drawn.set_style(style.progress_chars("=> "));
                }
                drawn.set_length(total.max(done));
                drawn.set_position(done);
                drawn.tick();
                tokio::time::sleep(TICK).await;
            }
        });
        Self {
            shown: Some((bar, drawing)),
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if let Some((bar, drawing)) = &self.shown {
            drawing.abort();
            bar.finish_and_clear();
        }
    }
}
