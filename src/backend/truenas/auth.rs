//! Logs in on a new connection and determines the server's release.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api_version::Release;
use super::connect::MAX_MESSAGE;
use super::error::Failure;
use super::job_events::GET_JOBS;
use super::messages::{Meaning, Message};
use super::socket::{Connection, Disconnected, MAX_ATTEMPTS, RETRY_PAUSE};
use super::wire::decode;
use crate::model::Reason;
use crate::secret::Secret;

/// Includes the server's delay of the response to a failed login.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Login {
    pub user: String,
    pub key: Secret,
}

/// A connection that is logged in.
#[derive(Debug)]
pub(super) struct Session {
    pub connection: Connection,
    pub release: Release,
}

/// The result of `auth.login_ex`, of a failed login too.
#[derive(Deserialize)]
struct LoginResult {
    response_type: String,
    #[serde(default)]
    urls: Vec<String>,
}

/// Logs in, subscribes to job events and reads the server's release. On failure,
/// the connection must not be used. `next_id` returns the ids of the calls.
pub(super) async fn log_in(
    connection: Connection,
    endpoint: &str,
    login: &Login,
    next_id: impl Fn() -> String,
) -> Result<Session, Failure> {
    let caller = Caller {
        connection: &connection,
        endpoint,
        next_id,
    };
    let release = tokio::time::timeout(TIMEOUT, caller.log_in(login))
        .await
        .unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                doing: format!("logging in to TrueNAS at {endpoint}"),
                after: TIMEOUT,
            })
        })?;
    Ok(Session {
        connection,
        release,
    })
}

/// Why the login failed; `None` if it succeeded.
fn refusal(result: &LoginResult, user: &str) -> Option<Reason> {
    let meaning = Message::Login(&result.response_type).meaning();
    Some(match meaning {
        Some(Meaning::LoggedIn) => return None,
        Some(Meaning::KeyRejected) => Reason::from(format!(
            "the API key was refused: it is wrong, revoked, or not a key of the user {user:?}"
        )),
        Some(Meaning::KeyExpired) => Reason::from(
            "the API key has expired, or TrueNAS revoked it because it was sent without TLS",
        )
        .with_hint("create a new API key in TrueNAS, then set truenas.api_key"),
        Some(Meaning::SecondFactor) => Reason::from(format!(
            "the user {user:?} needs a second factor, which an API key cannot provide"
        ))
        .with_hint("set truenas.username to a user without two-factor authentication"),
        Some(Meaning::Standby) => {
            let urls = match result.urls.is_empty() {
                true => String::new(),
                false => format!(": {}", result.urls.join(", ")),
            };
            Reason::from(format!("this is the standby node of the server{urls}"))
                .with_hint("set truenas.host to the active node")
        }
        Some(Meaning::NoApiAccess) => {
            Reason::from(format!("the user {user:?} has no access to the API"))
        }
        _ => Reason::from(format!("the login returned {:?}", result.response_type)),
    })
}

struct Caller<'a, F> {
    connection: &'a Connection,
    endpoint: &'a str,
    next_id: F,
}

impl<F: Fn() -> String> Caller<'_, F> {
    async fn log_in(&self, login: &Login) -> Result<Release, Failure> {
        let params = json!([{
            "mechanism": "API_KEY_PLAIN",
            "username": login.user,
            "api_key": login.key.expose(),
            "login_options": {"user_info": false},
        }]);
        let result: LoginResult = self.call("auth.login_ex", params).await?;
        if let Some(reason) = refusal(&result, &login.user) {
            return Err(self.denied(reason));
        }
        let version: String = self.call("system.version", json!([])).await?;
        let release = Release::parse(&version)?;
        let _: Value = self.call("core.subscribe", json!([GET_JOBS])).await?;
        tracing::debug!(version, "logged in");
        Ok(release)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        let mut attempts = 0;
        let response = loop {
            attempts += 1;
            let id = (self.next_id)();
            let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
            match self.connection.call(id, text.to_string(), false).await {
                Ok(Err(fault)) if fault.means(Meaning::TooManyCalls) && attempts < MAX_ATTEMPTS => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                response => break response,
            }
        };
        match response {
            Ok(Ok(result)) => decode(method, &result),
            Ok(Err(fault)) if fault.means(Meaning::RateLimited) => Err(Failure::RateLimited {
                endpoint: self.endpoint.to_owned(),
            }),
            Ok(Err(fault)) => Err(self.denied(format!("{method}: {fault}").into())),
            Err(Disconnected { end, .. }) if end.too_large => Err(Failure::TooLarge {
                endpoint: self.endpoint.to_owned(),
                method,
                limit: MAX_MESSAGE as u64,
            }),
            Err(Disconnected { end, .. })
                if end
                    .code
                    .is_some_and(|code| Message::Close(code).means(Meaning::AddressNotAllowed)) =>
            {
                let reason = "this machine is not in the server's list of allowed addresses";
                Err(self.denied(Reason::from(reason).with_hint(
                    "add this machine's address to the allowed IP addresses in the general \
                     settings of TrueNAS",
                )))
            }
            Err(Disconnected { end, .. }) => Err(Failure::Unreachable {
                endpoint: self.endpoint.to_owned(),
                reason: format!("{} while logging in", end.reason).into(),
            }),
        }
    }

    fn denied(&self, reason: Reason) -> Failure {
        Failure::Denied {
            endpoint: self.endpoint.to_owned(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_login_failure_has_its_own_reason() {
        let refusal_of = |kind: &str| {
            let result = json!({"response_type": kind, "urls": ["https://other"]});
            refusal(&serde_json::from_value(result).unwrap(), "root")
        };
        assert_eq!(refusal_of("SUCCESS"), None);
        let reasons: Vec<String> = [
            "AUTH_ERR",
            "EXPIRED",
            "OTP_REQUIRED",
            "REDIRECT",
            "DENIED",
            "X",
        ]
        .iter()
        .map(|kind| refusal_of(kind).unwrap().to_string())
        .collect();
        let mut distinct = reasons.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), reasons.len());
        assert!(reasons[3].contains("https://other"));
    }
}
