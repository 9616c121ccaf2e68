//! Past events of pixels and checkpoints. The server keeps no event log, but
//! records creation times.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::creator::Creator;
use super::optional;
use crate::model::{Backend, Event, Instance, Requestor, Result, rfc3339};

/// Number of concurrent requests.
const MAX_PARALLEL: usize = 8;

/// Returns the creation events of pixels and their checkpoints, oldest first.
pub async fn past_events(backend: &dyn Backend, pixels: &[Instance]) -> Result<Vec<Event>> {
    let events: Vec<Vec<(i64, Event)>> = stream::iter(pixels)
        .map(|pixel| creation_events(backend, pixel))
        .buffered(MAX_PARALLEL)
        .try_collect()
        .await?;
    let mut events: Vec<(i64, Event)> = events.into_iter().flatten().collect();
    // The sort is stable: a pixel precedes its checkpoints of the same second.
    events.sort_by_key(|(at, _)| *at);
    Ok(events.into_iter().map(|(_, event)| event).collect())
}

async fn creation_events(backend: &dyn Backend, pixel: &Instance) -> Result<Vec<(i64, Event)>> {
    let event = |at: i64, action: &str, checkpoint: Option<String>| Event {
        at: rfc3339(at).unwrap_or_default(),
        pixel: pixel.name.clone(),
        action: action.to_owned(),
        checkpoint,
        by: None,
    };
    let mut created = event(pixel.created_at, "instance-created", None);
    created.by = Creator::recorded_on(pixel).map(|creator| Requestor {
        username: "pixels".into(),
        protocol: "created-by".into(),
        address: creator.origin(),
    });
    // Another command may have deleted the pixel since it was listed.
    let checkpoints = optional(backend.checkpoints(&pixel.name).await)?.unwrap_or_default();
    let checkpoints = checkpoints.into_iter().map(|checkpoint| {
        let label = Some(checkpoint.label.to_string());
        let at = checkpoint.created_at;
        (at, event(at, "instance-snapshot-created", label))
    });
    let created = (pixel.created_at, created);
    Ok(std::iter::once(created).chain(checkpoints).collect())
}
