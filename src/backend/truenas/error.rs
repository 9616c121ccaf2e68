//! What the RPC client reports, and its one mapping to the boundary's errors.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::model::{Error, Reason, Size, Subject};

const EPERM: i64 = 1;
const ENOENT: i64 = 2;
const EACCES: i64 = 13;
const EFAULT: i64 = 14;
const EBUSY: i64 = 16;
const EEXIST: i64 = 17;
/// Of TrueNAS's own.
const ENOTAUTHENTICATED: i64 = 207;
/// Too many calls in flight; none of this one was carried out.
const TOO_MANY: i64 = -32000;
const NO_METHOD: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

/// A failed exchange with the server.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server's own refusal, of a call or of a job.
    #[error("{0}")]
    Refused(RpcFault),
    /// No connection; nothing of the call was sent.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: Reason },
    /// The connection went while the call was under way: it may have been
    /// carried out or not.
    #[error("lost the connection to {endpoint} during {method}: {reason}")]
    Lost {
        endpoint: String,
        method: &'static str,
        reason: String,
    },
    #[error("not authorized by {endpoint}: {reason}")]
    Denied { endpoint: String, reason: String },
    /// Too many logins from this address; this one was not looked at.
    #[error("{endpoint} takes no more logins for now")]
    Crowded { endpoint: String },
    #[error("{doing} took longer than {} s", .after.as_secs())]
    TimedOut { doing: String, after: Duration },
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// The server sends more than is taken into memory, which ended the
    /// connection; the call may have been carried out.
    #[error("an answer of {endpoint} during {method} is larger than {}", Size(*.limit))]
    TooLarge {
        endpoint: String,
        method: &'static str,
        limit: u64,
    },
    /// The connection's settings are unusable.
    #[error("{0}")]
    Setup(String),
    #[error("{operation} is not supported: {reason}")]
    Unsupported { operation: String, reason: String },
}

/// What the server says is wrong. Codes decide; the text is for people.
#[derive(Debug, Clone, Default)]
pub struct RpcFault {
    /// Of JSON-RPC; 0 for a job.
    pub code: i64,
    pub errno: i64,
    pub reason: String,
    /// Attribute and errno of every part of a validation error.
    pub rows: Vec<(String, i64)>,
}

impl fmt::Display for RpcFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

#[derive(Deserialize)]
pub(super) struct RpcError {
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    error: i64,
    reason: Option<String>,
    extra: Option<Value>,
}

/// `exc_info` of a failed job.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ExcInfo {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub errno: Option<i64>,
    pub extra: Option<Value>,
}

impl RpcFault {
    pub(super) fn from_call(error: RpcError) -> Self {
        let data = error.data;
        let rows = data.as_ref().and_then(|data| data.extra.as_ref());
        let reason = data.as_ref().and_then(|data| data.reason.clone());
        Self {
            code: error.code,
            errno: data.as_ref().map_or(0, |data| data.error),
            reason: tidy(&reason.unwrap_or(error.message)),
            rows: rows.map(self::rows).unwrap_or_default(),
        }
    }

    pub(super) fn from_job(error: Option<&str>, info: Option<ExcInfo>) -> Self {
        let validation = info
            .as_ref()
            .is_some_and(|info| info.kind.as_deref() == Some("VALIDATION"));
        let extra = info.as_ref().and_then(|info| info.extra.as_ref());
        Self {
            code: 0,
            errno: info.as_ref().and_then(|info| info.errno).unwrap_or(EFAULT),
            reason: tidy(error.unwrap_or("the job failed and did not say why")),
            rows: match extra {
                Some(extra) if validation => rows(extra),
                _ => Vec::new(),
            },
        }
    }

    /// A missing object is a validation error on the server's side.
    pub fn is_not_found(&self) -> bool {
        self.rows.iter().any(|(_, errno)| *errno == ENOENT)
            || self.code != INVALID_PARAMS && self.errno == ENOENT
    }

    pub fn exists(&self) -> bool {
        self.errno == EEXIST || self.rows.iter().any(|(_, errno)| *errno == EEXIST)
    }

    /// Whether a part of the validation error is about this attribute.
    pub fn is_about(&self, attribute: &str) -> bool {
        self.rows.iter().any(|(name, _)| name == attribute)
    }

    /// Something else still depends on it.
    pub fn is_busy(&self) -> bool {
        self.rows.iter().any(|(_, errno)| *errno == EBUSY)
    }

    /// The rate limit before login.
    pub fn is_rate_limit(&self) -> bool {
        self.errno == EBUSY && self.code != INVALID_PARAMS
    }

    pub fn too_many(&self) -> bool {
        self.code == TOO_MANY
    }

    pub fn no_method(&self) -> bool {
        self.code == NO_METHOD
    }

    /// The login is over, and the call was not carried out.
    pub fn logged_out(&self) -> bool {
        self.errno == ENOTAUTHENTICATED
    }

    fn denied(&self) -> bool {
        matches!(self.errno, EPERM | EACCES | ENOTAUTHENTICATED)
            || self.rows.iter().any(|(_, errno)| *errno == EACCES)
    }
}

fn rows(extra: &Value) -> Vec<(String, i64)> {
    let Some(all) = extra.as_array() else {
        return Vec::new();
    };
    all.iter()
        .filter_map(|row| {
            let attribute = row.get(0)?.as_str().unwrap_or_default();
            Some((attribute.to_owned(), row.get(2)?.as_i64()?))
        })
        .collect()
}

/// `[ERRNAME] text` to `text`, on one line.
fn tidy(reason: &str) -> String {
    let lines: Vec<&str> = reason
        .lines()
        .map(|line| {
            let text = line.trim();
            match text
                .strip_prefix('[')
                .and_then(|rest| rest.split_once("] "))
            {
                Some((name, rest)) if name.chars().all(|c| c.is_ascii_uppercase()) => rest,
                _ => text,
            }
        })
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

impl Failure {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(fault) if fault.is_not_found())
    }

    /// Whether the call may have been carried out without our being told.
    pub fn is_uncertain(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. } | Self::TimedOut { .. } | Self::TooLarge { .. }
        )
    }

    /// The same failure in the boundary's terms, when `subject` was asked for.
    pub fn into_error_for(self, subject: Subject) -> Error {
        match self {
            Self::Refused(fault) if fault.is_not_found() => Error::NotFound(subject),
            Self::Refused(fault) if fault.exists() => Error::AlreadyExists(subject),
            other => other.into_error(),
        }
    }

    /// The same failure when it is about no particular thing.
    pub fn into_error(self) -> Error {
        match self {
            Self::Refused(fault) if fault.denied() => Error::Denied {
                endpoint: "TrueNAS".into(),
                reason: fault.reason.into(),
            },
            Self::Refused(fault) if fault.no_method() => Error::Unsupported {
                operation: "this".into(),
                reason: "the TrueNAS server does not have the method; was it upgraded?".into(),
            },
            Self::Refused(fault) => Error::Server {
                code: u16::try_from(fault.errno).unwrap_or(0),
                message: fault.reason,
            },
            Self::Unreachable { endpoint, reason } => Error::Unreachable {
                endpoint: format!("TrueNAS at {endpoint}"),
                reason,
            },
            Self::Lost {
                endpoint,
                method,
                reason,
            } => Error::Unreachable {
                endpoint: format!("TrueNAS at {endpoint}"),
                reason: format!("{reason} during {method}, which may have been carried out").into(),
            },
            Self::Denied { endpoint, reason } => Error::Denied {
                endpoint: format!("TrueNAS at {endpoint}"),
                reason: reason.into(),
            },
            Self::Crowded { endpoint } => Error::Unreachable {
                endpoint: format!("TrueNAS at {endpoint}"),
                reason: "it takes about 20 logins a minute from one address, every command is \
                         one, and there were too many for longer than that; try again in some \
                         minutes"
                    .into(),
            },
            Self::TimedOut { doing, after } => Error::TimedOut { doing, after },
            Self::Protocol(text) => Error::Protocol(text),
            Self::TooLarge {
                endpoint,
                method,
                limit,
            } => Error::TooLarge {
                what: format!("an answer of TrueNAS at {endpoint} during {method}"),
                limit,
            },
            Self::Setup(text) => Error::Invalid(text.into()),
            Self::Unsupported { operation, reason } => Error::Unsupported {
                operation,
                reason: reason.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(error: Value) -> RpcFault {
        RpcFault::from_call(serde_json::from_value(error).unwrap())
    }

    #[test]
    fn a_missing_object_is_known_by_its_row() {
        let fault = call(
            json!({"code": -32602, "message": "Invalid params", "data": {
            "error": 22, "errname": "EINVAL", "reason": "[ENOENT] None: VirtInstance px-a does not exist",
            "trace": null, "extra": [[null, "VirtInstance px-a does not exist", 2]]}}),
        );
        assert!(fault.is_not_found() && !fault.exists());
        assert_eq!(fault.reason, "None: VirtInstance px-a does not exist");
        let plain = call(
            json!({"code": -32001, "message": "Method call error", "data": {
            "error": 2, "reason": "[ENOENT] Device not found.", "extra": null}}),
        );
        assert!(plain.is_not_found());
        let bad = call(
            json!({"code": -32602, "message": "Invalid params", "data": {
            "error": 22, "reason": "[EINVAL] a: b\n", "extra": [["a", "b", 22]]}}),
        );
        assert!(!bad.is_not_found() && bad.is_about("a"));
    }

    #[test]
    fn jobs_fail_with_rows_or_a_number() {
        let info = json!({"repr": "", "type": "VALIDATION", "errno": null,
            "extra": [["virt_instance_create.name", "Name 'px-a' already exists", 22]]});
        let fault = RpcFault::from_job(
            Some("[EINVAL] virt_instance_create.name: Name 'px-a' already exists\n"),
            serde_json::from_value(info).unwrap(),
        );
        assert!(fault.is_about("virt_instance_create.name"));
        let info = json!({"repr": "", "type": "CallError", "errno": 14, "extra": [["x", "y", 2]]});
        let fault = RpcFault::from_job(Some("[EFAULT] no"), serde_json::from_value(info).unwrap());
        assert!(!fault.is_not_found());
        assert_eq!(fault.reason, "no");
        assert_eq!(RpcFault::from_job(None, None).errno, EFAULT);
    }

    #[test]
    fn what_may_have_happened_is_said() {
        let lost = Failure::Lost {
            endpoint: "nas".into(),
            method: "virt.instance.create",
            reason: "the connection closed".into(),
        };
        assert!(lost.is_uncertain());
        assert!(
            lost.into_error()
                .to_string()
                .contains("may have been carried out")
        );
    }
}
