//! Logs in on a new connection and determines the server's release.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api_version::Release;
use super::connect::MAX_MESSAGE;
use super::error::Failure;
use super::job_events::GET_JOBS;
use super::messages::Meaning;
use super::rpc::Rpc;
use super::socket::{Connection, Disconnected, MAX_ATTEMPTS, RETRY_PAUSE};
use super::wire::decode;
use crate::model::Reason;
use crate::secret::Secret;

/// Deadline of a login. The server delays its response to a failed login.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The close code if the client's address is not in the web UI's allow list.
const ADDRESS_NOT_ALLOWED: u16 = 1008;

#[derive(Debug)]
pub struct Login {
    pub user: String,
    pub key: Secret,
}

/// A connection after a successful login.
#[derive(Debug)]
pub(super) struct Session {
    pub connection: Connection,
    pub release: Release,
}

/// The result of `auth.login_ex`, which is present even if the login failed.
#[derive(Deserialize)]
struct LoginResult {
    response_type: String,
    #[serde(default)]
    urls: Vec<String>,
}

/// Returns why the login failed, or `None` if the login succeeded.
fn refusal(result: &LoginResult, user: &str) -> Option<Reason> {
    Some(match result.response_type.as_str() {
        "SUCCESS" => return None,
        "AUTH_ERR" => Reason::from(format!(
            "the API key was refused: it is wrong, revoked, or not a key of the user {user:?}"
        )),
        "EXPIRED" => Reason::from(
            "the API key has expired, or TrueNAS revoked it because it was sent without TLS",
        )
        .with_hint("create a new API key in TrueNAS, then set truenas.api_key"),
        "OTP_REQUIRED" => Reason::from(format!(
            "the user {user:?} needs a second factor, which an API key cannot provide"
        ))
        .with_hint("set truenas.username to a user without two-factor authentication"),
        "REDIRECT" => {
            let urls = match result.urls.is_empty() {
                true => String::new(),
                false => format!(": {}", result.urls.join(", ")),
            };
            Reason::from(format!("this is the standby node of the server{urls}"))
                .with_hint("set truenas.host to the active node")
        }
        "DENIED" => Reason::from(format!("the user {user:?} has no access to the API")),
        other => Reason::from(format!("the login returned {other:?}")),
    })
}

impl Rpc {
    /// Logs in, subscribes to job events and reads the server's release. After an
    /// error, the caller must not use the connection.
    pub(super) async fn log_in(&self, connection: Connection) -> Result<Session, Failure> {
        let release = tokio::time::timeout(TIMEOUT, self.begin(&connection))
            .await
            .unwrap_or_else(|_| {
                let doing = format!("logging in to TrueNAS at {}", self.endpoint());
                Err(Failure::timed_out(doing, TIMEOUT))
            })?;
        Ok(Session {
            connection,
            release,
        })
    }

    async fn begin(&self, connection: &Connection) -> Result<Release, Failure> {
        let Login { user, key } = &self.login;
        let params = json!([{
            "mechanism": "API_KEY_PLAIN",
            "username": user,
            "api_key": key.expose(),
            "login_options": {"user_info": false},
        }]);
        let result: LoginResult = self.call_early(connection, "auth.login_ex", params).await?;
        if let Some(reason) = refusal(&result, user) {
            return Err(Failure::denied(self.endpoint(), reason));
        }
        let version: String = self
            .call_early(connection, "system.version", json!([]))
            .await?;
        let release = Release::parse(&version)?;
        let _: Value = self
            .call_early(connection, "core.subscribe", json!([GET_JOBS]))
            .await?;
        tracing::debug!(version, "logged in");
        Ok(release)
    }

    /// Sends a call during the login. Such a call must not start a login itself.
    async fn call_early<T: DeserializeOwned>(
        &self,
        connection: &Connection,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        let mut attempts = 0;
        let response = loop {
            attempts += 1;
            let id = self.id();
            let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
            match connection.call(id, text.to_string(), false).await {
                Ok(Err(fault)) if fault.means(Meaning::TooManyCalls) && attempts < MAX_ATTEMPTS => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                response => break response,
            }
        };
        let endpoint = self.endpoint();
        Err(match response {
            Ok(Ok(result)) => return Ok(decode(method, &result)?),
            Ok(Err(fault)) if fault.means(Meaning::RateLimited) => Failure::rate_limited(endpoint),
            Ok(Err(fault)) => Failure::denied(endpoint, format!("{method}: {fault}")),
            Err(Disconnected { end, .. }) if end.too_large => {
                Failure::too_large(endpoint, method, MAX_MESSAGE)
            }
            Err(Disconnected { end, .. }) if end.code == Some(ADDRESS_NOT_ALLOWED) => {
                let reason = "this machine is not in the server's list of allowed addresses";
                let hint = "add this machine's address to the allowed IP addresses in the general \
                            settings of TrueNAS";
                Failure::denied(endpoint, Reason::from(reason).with_hint(hint))
            }
            Err(Disconnected { end, .. }) => {
                Failure::unreachable(endpoint, format!("{} while logging in", end.reason))
            }
        })
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
