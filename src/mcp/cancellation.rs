//! Cancellation of calls over HTTP by `notifications/cancelled`.
//!
//! The notification is a separate request, and ids of calls are unique only
//! within a client. The response to `initialize` therefore contains a session
//! id, which only distinguishes clients: sessions are not stored, and any
//! session id is accepted, such as an id from before a restart.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::model::{lock, random_hex};

pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// A session id, and the id of a call as JSON.
type Key = (String, String);
type Tokens = Mutex<HashMap<Key, CancellationToken>>;

/// The calls in progress.
#[derive(Debug, Default)]
pub struct Calls(Arc<Tokens>);

/// A call in progress, until the guard is dropped.
#[derive(Debug, Default)]
pub struct CallGuard {
    pub is_initialize: bool,
    /// Canceled by a notification from the client.
    pub cancelled: CancellationToken,
    registered: Option<(Arc<Tokens>, Key)>,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Cancelled<'a> {
    #[serde(borrow, rename = "requestId")]
    request: &'a RawValue,
}

impl Calls {
    /// Registers a call, or cancels the call that a notification names.
    /// Malformed messages, calls without session, and calls whose id is in use
    /// are not registered.
    pub fn register(&self, headers: &HeaderMap, body: &[u8]) -> CallGuard {
        let mut guard = CallGuard::default();
        let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
            return guard;
        };
        guard.is_initialize = message.method == "initialize";
        let session = headers.get(SESSION).and_then(|it| it.to_str().ok());
        let Some(session) = session else {
            return guard;
        };
        let key = |id: &RawValue| (session.to_owned(), id.get().to_owned());
        let mut tokens = lock(&self.0);
        if message.method == "notifications/cancelled" {
            let cancelled = message
                .params
                .and_then(|params| serde_json::from_str::<Cancelled<'_>>(params.get()).ok());
            if let Some(token) = cancelled.and_then(|it| tokens.get(&key(it.request))) {
                token.cancel();
            }
        } else if let Some(id) = message.id
            && let Entry::Vacant(entry) = tokens.entry(key(id))
        {
            guard.registered = Some((self.0.clone(), entry.key().clone()));
            entry.insert(guard.cancelled.clone());
        }
        guard
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if let Some((tokens, key)) = self.registered.take() {
            lock(&tokens).remove(&key);
        }
    }
}

/// Returns a random session id for a client.
pub fn new_session() -> Option<HeaderValue> {
    HeaderValue::try_from(random_hex(16).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(session: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(SESSION, HeaderValue::from_static(session))])
    }

    fn cancel(id: &str) -> Vec<u8> {
        format!(r#"{{"method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#).into()
    }

    #[test]
    fn notification_cancels_only_calls_of_its_session() {
        let calls = Calls::default();
        let call = |session, id: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call"}}"#);
            calls.register(&headers(session), body.as_bytes())
        };
        let (own, text_id, foreign) = (call("a", "1"), call("a", "\"1\""), call("b", "1"));
        let no_session = calls.register(&HeaderMap::new(), br#"{"id":1,"method":"x"}"#);
        calls.register(&headers("c"), &cancel("1"));
        calls.register(&HeaderMap::new(), &cancel("1"));
        assert!(!own.cancelled.is_cancelled());
        calls.register(&headers("a"), &cancel("1"));
        assert!(own.cancelled.is_cancelled());
        for other in [&text_id, &foreign, &no_session] {
            assert!(!other.cancelled.is_cancelled());
        }
        drop((own, text_id, foreign));
        assert!(lock(&calls.0).is_empty());
    }

    #[test]
    fn malformed_messages_are_not_registered() {
        let calls = Calls::default();
        for body in ["", "[]", "{\"id\":", "null", "{\"method\":1}"] {
            let guard = calls.register(&headers("a"), body.as_bytes());
            assert!(!guard.is_initialize && guard.registered.is_none(), "{body}");
        }
        let no_id = br#"{"method":"notifications/cancelled","params":[]}"#;
        calls.register(&headers("a"), no_id);
        let initialize = calls.register(&headers("a"), br#"{"method":"initialize"}"#);
        assert!(initialize.is_initialize);
        assert_ne!(new_session(), new_session());
    }
}
