//! The event stream of the daemon (`/1.0/events`).

use futures_util::StreamExt;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

use super::client::Client;
use super::error::Failure;
use super::websocket;

/// An event of the daemon.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// `lifecycle`, `operation` or `logging`.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339.
    #[serde(default)]
    pub timestamp: String,
    #[serde(default)]
    pub project: String,
    /// The content, whose form depends on `kind`.
    #[serde(default)]
    pub metadata: serde_json::Value,
}

/// A subscription. Events arrive in the order in which the daemon sent them.
pub struct Events(websocket::Socket, String);

impl Events {
    /// Subscribes to some of `lifecycle`, `operation` and `logging`. Events after
    /// the return are not missed.
    pub async fn subscribe(client: &Client, kinds: &[&str]) -> Result<Self, Failure> {
        let path = client.scoped(&format!("/1.0/events?type={}", kinds.join(",")));
        let socket = websocket::open(client, &path).await?;
        Ok(Self(socket, client.endpoint().to_owned()))
    }

    /// Waits for the next event. The end of the stream is
    /// `Failure::Unreachable`, because the daemon never ends it.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        let lost = |reason: String| Failure::Unreachable {
            endpoint: self.1.clone(),
            reason: reason.into(),
        };
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text)
                        .map_err(|e| Failure::Protocol(format!("event: {e}")));
                }
                Some(Ok(Message::Close(_))) | None => {
                    return Err(lost("the event stream ended".into()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) if websocket::is_too_large(&error) => {
                    return Err(Failure::TooLarge {
                        what: format!("an event of {}", self.1),
                        limit: websocket::LARGEST as u64,
                    });
                }
                Some(Err(error)) => return Err(lost(error.to_string())),
            }
        }
    }
}
