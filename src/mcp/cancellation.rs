//! Calls under way over HTTP, and the word of a client that it gives one up.
//!
//! That word comes in a request of its own, and the ids of calls differ only
//! within one client. So a client that introduces itself is given a session,
//! which is nothing but a name to tell clients apart: none is kept, and any
//! that is shown is taken, also one from before a restart.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// A session, and the id of a call as it was written.
type Key = (String, String);
type UnderWay = Mutex<HashMap<Key, CancellationToken>>;

#[derive(Debug, Default)]
pub struct Calls(Arc<UnderWay>);

/// A request that is at work until this is dropped.
#[derive(Debug, Default)]
pub struct CallGuard {
    /// The client introduces itself.
    pub opening: bool,
    /// Cancelled when the client says that it gave up.
    pub given_up: CancellationToken,
    listed: Option<(Arc<UnderWay>, Key)>,
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
    /// Takes note of a request, whatever is in it.
    pub fn register(&self, headers: &HeaderMap, body: &[u8]) -> CallGuard {
        let mut on_event = CallGuard::default();
        let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
            return on_event;
        };
        on_event.opening = message.method == "initialize";
        let session = headers.get(SESSION).and_then(|it| it.to_str().ok());
        let Some(session) = session else {
            return on_event;
        };
        let key = |id: &RawValue| (session.to_owned(), id.get().to_owned());
        let mut calls = lock(&self.0);
        if message.method == "notifications/cancelled" {
            let cancelled = message
                .params
                .and_then(|params| serde_json::from_str::<Cancelled<'_>>(params.get()).ok());
            if let Some(call) = cancelled.and_then(|it| calls.get(&key(it.request))) {
                call.cancel();
            }
        } else if let Some(id) = message.id
            && let std::collections::hash_map::Entry::Vacant(free) = calls.entry(key(id))
        {
            on_event.listed = Some((self.0.clone(), free.key().clone()));
            free.insert(on_event.given_up.clone());
        }
        on_event
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if let Some((calls, key)) = self.listed.take() {
            lock(&calls).remove(&key);
        }
    }
}

/// A name for a client that introduces itself.
pub fn session() -> Option<HeaderValue> {
    let mut random = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).ok()?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(text).ok()
}

fn lock(calls: &UnderWay) -> std::sync::MutexGuard<'_, HashMap<Key, CancellationToken>> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(session: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(SESSION, HeaderValue::from_static(session))])
    }

    fn cancel(id: &str) -> Vec<u8> {
        format!(r#"{{"method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#).into()
    }

    #[test]
    fn a_client_gives_up_its_own_calls_and_no_others() {
        let calls = Calls::default();
        let call = |session, id: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call"}}"#);
            calls.register(&of(session), body.as_bytes())
        };
        let (mine, text, theirs) = (call("a", "1"), call("a", "\"1\""), call("b", "1"));
        let anonymous = calls.register(&HeaderMap::new(), br#"{"id":1,"method":"x"}"#);
        calls.register(&of("c"), &cancel("1"));
        calls.register(&HeaderMap::new(), &cancel("1"));
        assert!(!mine.given_up.is_cancelled());
        calls.register(&of("a"), &cancel("1"));
        assert!(mine.given_up.is_cancelled());
        for other in [&text, &theirs, &anonymous] {
            assert!(!other.given_up.is_cancelled());
        }
        drop((mine, text, theirs));
        assert!(lock(&calls.0).is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_passed_on() {
        let calls = Calls::default();
        for body in ["", "[]", "{\"id\":", "null", "{\"method\":1}"] {
            let on_event = calls.register(&of("a"), body.as_bytes());
            assert!(!on_event.opening && on_event.listed.is_none(), "{body}");
        }
        let odd = br#"{"method":"notifications/cancelled","params":[]}"#;
        calls.register(&of("a"), odd);
        assert!(
            calls
                .register(&of("a"), br#"{"method":"initialize"}"#)
                .opening
        );
        assert_ne!(session(), session());
    }
}
