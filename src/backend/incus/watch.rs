//! Reads lifecycle events of pixels from the daemon's event stream.

use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::client::Client;
use super::error::Failure;
use super::websocket;
use crate::model::{self, Name, Requestor, Result};

/// An event of the daemon.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    /// The time in RFC 3339 format.
    #[serde(default)]
    timestamp: String,
    /// The event's data: [`Lifecycle`] for a lifecycle event.
    #[serde(default)]
    metadata: Value,
}

#[derive(Debug, Deserialize)]
struct Lifecycle {
    #[serde(default)]
    action: String,
    /// The API path, such as `/1.0/instances/px-a/snapshots/b?project=x`.
    #[serde(default)]
    source: String,
    #[serde(default)]
    requestor: Option<Requestor>,
}

/// Streams lifecycle events. Fails with `Error::Unreachable` when the stream
/// ends, because the daemon itself never ends the stream.
pub(super) async fn watch(
    client: &Client,
    on_event: &mut (dyn FnMut(model::Event) + Send),
) -> Result<()> {
    let path = client.scoped("/1.0/events?type=lifecycle");
    let stream = client.transport().connect().await?;
    let mut socket = websocket::upgrade(client, stream, &path, websocket::CHUNK).await?;
    let endpoint = client.endpoint();
    loop {
        let text = match socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_))) | None => {
                return Err(Failure::unreachable(endpoint, "the event stream ended").into());
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) if websocket::is_too_large(&error) => {
                return Err(websocket::too_large(format!("an event of {endpoint}")).into());
            }
            Some(Err(error)) => {
                return Err(Failure::unreachable(endpoint, error.to_string()).into());
            }
        };
        let event =
            serde_json::from_str(&text).map_err(|e| Failure::protocol(format!("event: {e}")))?;
        if let Some(event) = parse(event) {
            on_event(event);
        }
    }
}

/// Converts an event. Returns `None` if the event is not about a pixel.
pub(super) fn parse(event: Event) -> Option<model::Event> {
    let lifecycle: Lifecycle = serde_json::from_value(event.metadata).ok()?;
    let path = lifecycle.source.split('?').next()?;
    let mut steps = path.strip_prefix("/1.0/instances/")?.split('/');
    let pixel = Name::from_instance(steps.next()?)?;
    let checkpoint = match (steps.next(), steps.next()) {
        (Some("snapshots"), Some(label)) => Some(label.to_owned()),
        _ => None,
    };
    Some(model::Event {
        at: event.timestamp,
        pixel,
        action: lifecycle.action,
        checkpoint,
        by: lifecycle.requestor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_from(source: &str) -> Option<model::Event> {
        let event = serde_json::json!({
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
        let event = event_from("/1.0/instances/px-a").unwrap();
        assert_eq!(event.checkpoint, None);
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
