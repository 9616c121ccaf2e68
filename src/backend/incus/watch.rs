//! Lifecycle events of pixels.

use serde::Deserialize;

use super::client::Client;
use super::error::Failure;
use super::events::{self, Events};
use crate::model::{Event, Name, Requestor, Result};

#[derive(Debug, Deserialize)]
struct Lifecycle {
    #[serde(default)]
    action: String,
    /// Such as `/1.0/instances/px-a/snapshots/b?project=x`.
    #[serde(default)]
    source: String,
    #[serde(default)]
    requestor: Option<WireRequestor>,
}

#[derive(Debug, Deserialize)]
struct WireRequestor {
    #[serde(default)]
    username: String,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    address: String,
}

pub(super) async fn watch(client: &Client, on_event: &mut (dyn FnMut(Event) + Send)) -> Result<()> {
    let subscribed = Events::subscribe(client, &["lifecycle"]).await;
    let mut events = subscribed.map_err(Failure::into_error)?;
    loop {
        let event = events.next().await.map_err(Failure::into_error)?;
        if let Some(event) = parse(event) {
            on_event(event);
        }
    }
}

/// `None` for an event that is not about a pixel.
pub(super) fn parse(event: events::Event) -> Option<Event> {
    let lifecycle: Lifecycle = serde_json::from_value(event.metadata).ok()?;
    let path = lifecycle.source.split('?').next()?;
    let mut steps = path.strip_prefix("/1.0/instances/")?.split('/');
    let pixel = Name::from_instance(steps.next()?)?;
    let checkpoint = match (steps.next(), steps.next()) {
        (Some("snapshots"), Some(label)) => Some(label.to_owned()),
        _ => None,
    };
    Some(Event {
        at: event.timestamp,
        pixel,
        action: lifecycle.action,
        checkpoint,
        by: lifecycle.requestor.map(|who| Requestor {
            username: who.username,
            protocol: who.protocol,
            address: who.address,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_from(source: &str) -> Option<Event> {
        let event = serde_json::json!({
            "type": "lifecycle",
            "timestamp": "2026-11-24T06:00:00Z",
            "metadata": {
                "action": "x",
                "source": source,
                "requestor": {"username": "root", "protocol": "unix", "address": "@"},
            },
        });
        parse(serde_json::from_value(event).unwrap())
    }

    #[test]
    fn events_of_other_instances_are_ignored() {
        let event = event_from("/1.0/instances/px-a/snapshots/b?project=p").unwrap();
        assert_eq!(event.pixel.as_str(), "a");
        assert_eq!(event.checkpoint.as_deref(), Some("b"));
        assert_eq!(event.by.unwrap().protocol, "unix");
        assert!(
            event_from("/1.0/instances/px-a")
                .unwrap()
                .checkpoint
                .is_none()
        );
        for other in [
            "/1.0/instances/a",
            "/1.0/images/px-a",
            "",
            "/1.0/instances/",
        ] {
            assert!(event_from(other).is_none(), "{other}");
        }
    }
}
