//! `pixels events`

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use tokio::sync::Notify;

use super::{Context, completions};
use crate::lifecycle::history;
use crate::model::{Error, Event, Instance, Name, Subject};

/// Tell what happens to pixels, and who did it, as JSON, one event per line
///
/// The server keeps no history: without --follow, it is when the present pixels
/// and checkpoints were made, and by which machine.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only of these
    #[arg(add = ArgValueCandidates::new(completions::pixels))]
    names: Vec<Name>,
    /// Tell what happens from now on, until interrupted
    #[arg(short, long)]
    follow: bool,
}

impl EventsArgs {
    pub async fn run(self, context: &Context) -> anyhow::Result<()> {
        let backend = context.backend()?;
        if self.follow {
            let unheard = Notify::new();
            let mut tell = |event: Event| {
                if self.names.is_empty() || self.names.contains(&event.pixel) {
                    context.ui.value(&event);
                }
                if !context.ui.has_reader() {
                    unheard.notify_one();
                }
            };
            let watching = context.unless_interrupted(backend.watch(&mut tell));
            return tokio::select! {
                outcome = watching => Ok(outcome?),
                () = unheard.notified() => Ok(()),
            };
        }
        let mut pixels = context.unless_interrupted(backend.list()).await?;
        keep_named(&mut pixels, &self.names)?;
        for event in context
            .unless_interrupted(history::past_events(backend, &pixels))
            .await?
        {
            context.ui.value(&event);
        }
        Ok(())
    }
}

/// Leaves those of these names; all when there are none.
pub fn keep_named(pixels: &mut Vec<Instance>, names: &[Name]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let present = |name: &&Name| pixels.iter().any(|pixel| pixel.name == **name);
    if let Some(missing) = names.iter().find(|name| !present(name)) {
        return Err(Error::NotFound(Subject::pixel(missing)));
    }
    pixels.retain(|pixel| names.contains(&pixel.name));
    Ok(())
}
