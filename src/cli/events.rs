//! `pixels events`

use clap::Args;
use tokio::sync::Notify;

use super::pixel_list::keep_named;
use super::{Context, completions};
use crate::lifecycle::history;
use crate::model::{Event, Name};

/// Print events of pixels as JSON Lines
///
/// The server keeps no history: without --follow, prints when and by which machine
/// the existing pixels and checkpoints were created.
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels events"
    "pixels events box --follow"
    "pixels events --follow | jq -r .action"
))]
pub struct EventsArgs {
    /// Only these pixels
    #[arg(value_name = "NAME", add = completions::pixels())]
    names: Vec<Name>,
    /// Stream new events until interrupted
    #[arg(short, long)]
    follow: bool,
}

impl EventsArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        if self.follow {
            let reader_closed = Notify::new();
            let mut on_event = |event: Event| {
                if self.names.is_empty() || self.names.contains(&event.pixel) {
                    context.ui.value(&event);
                }
                if !context.ui.has_reader() {
                    reader_closed.notify_one();
                }
            };
            let watching = context.unless_interrupted(backend.watch(&mut on_event));
            return tokio::select! {
                outcome = watching => Ok(outcome?),
                () = reader_closed.notified() => Ok(()),
            };
        }
        let mut pixels = context.unless_interrupted(backend.list()).await?;
        keep_named(&mut pixels, &self.names)?;
        let events = history::past_events(backend, &pixels);
        for event in context.unless_interrupted(events).await? {
            context.ui.value(&event);
        }
        Ok(())
    }
}
