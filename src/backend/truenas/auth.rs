//! The first calls on a connection: who we are, and what the server is.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api_version::Release;
use super::error::Failure;
use super::rpc::{PAUSE, Session, TRIES, decode};
use super::socket::{Connection, Disconnected, LARGEST};
use crate::secret::Secret;

/// The server delays the answer to a login that failed.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Login {
    pub user: String,
    pub key: Secret,
}

/// A login that fails is an answer like any other, not an error.
#[derive(Deserialize)]
struct Outcome {
    response_type: String,
    #[serde(default)]
    urls: Vec<String>,
}

/// Logs in, asks for the news of jobs, and learns the server's release. A
/// connection on which this failed is of no further use.
pub(super) async fn log_in(
    connection: Connection,
    endpoint: &str,
    login: &Login,
    id: impl Fn() -> String,
) -> Result<Session, Failure> {
    let first = First {
        connection: &connection,
        endpoint,
        id: &id,
    };
    let work = async {
        let params = json!([{
            "mechanism": "API_KEY_PLAIN",
            "username": login.user,
            "api_key": login.key.expose(),
            "login_options": {"user_info": false},
        }]);
        let outcome: Outcome = first.call("auth.login_ex", params).await?;
        if outcome.response_type != "SUCCESS" {
            return Err(Failure::Denied {
                endpoint: endpoint.to_owned(),
                reason: refusal(&outcome, &login.user),
            });
        }
        let version: String = first.call("system.version", json!([])).await?;
        let release = Release::parse(&version)?;
        let _: Value = first
            .call("core.subscribe", json!(["core.get_jobs"]))
            .await?;
        tracing::debug!(version, "logged in");
        Ok(release)
    };
    let release = tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                doing: format!("logging in to TrueNAS at {endpoint}"),
                after: LIMIT,
            })
        })?;
    Ok(Session {
        connection,
        release,
    })
}

fn refusal(outcome: &Outcome, user: &str) -> String {
    match outcome.response_type.as_str() {
        "AUTH_ERR" => format!(
            "the API key was refused: it is wrong, was revoked, or does not belong to the user {user:?}"
        ),
        "EXPIRED" => {
            "the API key has expired, or was revoked because it once came without TLS: make a new one"
                .into()
        }
        "OTP_REQUIRED" => format!(
            "the user {user:?} needs a second factor, which an API key cannot give: use another user"
        ),
        "REDIRECT" => format!(
            "this node is on standby: set truenas.host to the active one{}",
            match outcome.urls.is_empty() {
                true => String::new(),
                false => format!(" ({})", outcome.urls.join(", ")),
            }
        ),
        "DENIED" => format!("the user {user:?} has no access to the API"),
        other => format!("the login ended with {other:?}"),
    }
}

struct First<'a, F> {
    connection: &'a Connection,
    endpoint: &'a str,
    id: &'a F,
}

impl<F: Fn() -> String> First<'_, F> {
    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Failure> {
        let mut tries = 0;
        let answer = loop {
            tries += 1;
            let id = (self.id)();
            let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
            match self.connection.call(id, text.to_string(), false).await {
                Ok(Err(fault)) if fault.too_many() && tries < TRIES => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => break answer,
            }
        };
        match answer {
            Ok(Ok(result)) => decode(method, &result),
            Ok(Err(fault)) if fault.is_rate_limit() => Err(Failure::Crowded {
                endpoint: self.endpoint.to_owned(),
            }),
            Ok(Err(fault)) => Err(Failure::Denied {
                endpoint: self.endpoint.to_owned(),
                reason: format!("{method}: {fault}"),
            }),
            Err(Disconnected { end, .. }) if end.too_large => Err(Failure::TooLarge {
                endpoint: self.endpoint.to_owned(),
                method,
                limit: LARGEST as u64,
            }),
            Err(Disconnected { end, .. }) if end.reason.contains("1008") => Err(Failure::Denied {
                endpoint: self.endpoint.to_owned(),
                reason: "its list of allowed addresses does not have this machine".into(),
            }),
            Err(Disconnected { end, .. }) => Err(Failure::Unreachable {
                endpoint: self.endpoint.to_owned(),
                reason: format!("{} while logging in", end.reason).into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let texts: Vec<String> = [
            "AUTH_ERR",
            "EXPIRED",
            "OTP_REQUIRED",
            "REDIRECT",
            "DENIED",
            "X",
        ]
        .iter()
        .map(|kind| {
            let outcome = json!({"response_type": kind, "urls": ["https://other"]});
            refusal(&serde_json::from_value(outcome).unwrap(), "root")
        })
        .collect();
        let mut different = texts.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), texts.len());
        assert!(texts[3].contains("https://other"));
    }
}
