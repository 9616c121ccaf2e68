//! How far a transfer is: a bar with rate and remaining time on a terminal,
//! nothing anywhere else.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

/// Short transfers finish before anything flickers.
const QUIET_FOR: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(100);
const KNOWN: &str = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
const UNKNOWN: &str = "{spinner} {bytes}  {bytes_per_sec}  {elapsed}";

/// Gone from the screen when it is dropped.
pub struct ProgressBar {
    shown: Option<(indicatif::ProgressBar, JoinHandle<()>)>,
}

impl ProgressBar {
    /// Needs the runtime.
    pub(super) fn new(wanted: bool, look: impl Fn() -> (u64, u64) + Send + 'static) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self { shown: None };
        }
        let bar = indicatif::ProgressBar::hidden();
        let ours = bar.clone();
        let watching = tokio::spawn(async move {
            tokio::time::sleep(QUIET_FOR).await;
            bar.set_draw_target(ProgressDrawTarget::stderr());
            let mut style = "";
            loop {
                let (done, total) = look();
                let wanted = if total > 0 { KNOWN } else { UNKNOWN };
                if style != wanted
                    && let Ok(made) = ProgressStyle::with_template(wanted)
                {
                    style = wanted;
                    bar.set_style(made.progress_chars("=> "));
                }
                bar.set_length(total.max(done));
                bar.set_position(done);
                bar.tick();
                tokio::time::sleep(TICK).await;
            }
        });
        Self {
            shown: Some((ours, watching)),
        }
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        if let Some((bar, watching)) = &self.shown {
            watching.abort();
            bar.finish_and_clear();
        }
    }
}
