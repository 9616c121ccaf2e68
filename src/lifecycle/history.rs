//! What the server still knows of the past: it keeps no record of events, but
//! pixels and checkpoints carry the time they were made.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::creator::Creator;
use crate::model::{Backend, Event, Instance, Requestor, Result};

/// Requests at the same time.
const AT_ONCE: usize = 8;

/// When these pixels and their checkpoints were made, oldest first.
pub async fn past_events(backend: &dyn Backend, pixels: &[Instance]) -> Result<Vec<Event>> {
    let all: Vec<Vec<(i64, Event)>> = stream::iter(pixels)
        .map(|pixel| events(backend, pixel))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut all: Vec<(i64, Event)> = all.into_iter().flatten().collect();
    // The pixel itself stands before its checkpoints of the same second.
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, event)| event).collect())
}

async fn events(backend: &dyn Backend, pixel: &Instance) -> Result<Vec<(i64, Event)>> {
    let event = |at: i64, action: &str, checkpoint: Option<String>| Event {
        at: rfc3339(at),
        pixel: pixel.name.clone(),
        action: action.to_owned(),
        checkpoint,
        by: None,
    };
    let mut made = event(pixel.created_at, "instance-created", None);
    made.by = Creator::recorded_on(pixel).map(|creator| Requestor {
        username: "pixels".into(),
        protocol: "claim".into(),
        address: creator.origin(),
    });
    let mut all = vec![(pixel.created_at, made)];
    match backend.checkpoints(&pixel.name).await {
        Ok(checkpoints) => all.extend(checkpoints.into_iter().map(|checkpoint| {
            let label = Some(checkpoint.label.to_string());
            let at = checkpoint.created_at;
            (at, event(at, "instance-snapshot-created", label))
        })),
        // Destroyed since it was listed.
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(all)
}

fn rfc3339(seconds: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok();
    let text = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_default()
}
