//! Parses parameters and encodes errors as TrueNAS does.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The error of a call or a job.
#[derive(Debug)]
pub enum Fail {
    /// One row of a validation error: attribute and message. An error without
    /// an attribute means "not found".
    Invalid(Option<String>, String),
    /// Errno and reason.
    Call(i64, String),
    NoMethod,
}

pub type Outcome = Result<Value, Fail>;

/// Converts errors of the Incus daemon.
impl From<String> for Fail {
    fn from(reason: String) -> Self {
        call(14, reason)
    }
}

/// Parses the arguments of a call. Fails unless their number and types match
/// `T`, usually a tuple.
pub fn args<T: DeserializeOwned>(params: &[Value]) -> Result<T, Fail> {
    serde_json::from_value(json!(params)).map_err(|e| invalid("params", e.to_string()))
}

pub fn invalid(attribute: &str, message: impl Into<String>) -> Fail {
    Fail::Invalid(Some(attribute.to_owned()), message.into())
}

pub fn not_found(word: &str, id: &str) -> Fail {
    Fail::Invalid(None, format!("{word} {id} does not exist"))
}

pub fn call(errno: i64, reason: impl Into<String>) -> Fail {
    Fail::Call(errno, reason.into())
}

fn name(errno: i64) -> &'static str {
    match errno {
        2 => "ENOENT",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        22 => "EINVAL",
        207 => "ENOTAUTHENTICATED",
        _ => "EUNKNOWN",
    }
}

impl Fail {
    fn rows(&self) -> Value {
        match self {
            Self::Invalid(Some(attribute), message) => json!([[attribute, message, 22]]),
            Self::Invalid(None, message) => json!([[null, message, 2]]),
            _ => Value::Null,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Invalid(Some(attribute), message) => format!("[EINVAL] {attribute}: {message}\n"),
            Self::Invalid(None, message) => format!("[ENOENT] None: {message}"),
            Self::Call(errno, reason) => format!("[{}] {reason}", name(*errno)),
            Self::NoMethod => "Method does not exist".into(),
        }
    }

    /// The `error` member of a response.
    pub fn of_call(&self) -> Value {
        let (code, message, errno) = match self {
            Self::NoMethod => return json!({"code": -32601, "message": self.text()}),
            Self::Invalid(..) => (-32602, "Invalid params", 22),
            Self::Call(errno, _) => (-32001, "Method call error", *errno),
        };
        // Clients must not print the trace: it contains the API key.
        let trace = json!({"frames": [{"locals": {"api_key": super::API_KEY}}]});
        json!({"code": code, "message": message, "data": {
            "error": errno, "errname": name(errno), "reason": self.text(),
            "trace": trace, "extra": self.rows()}})
    }

    /// Returns the `error` and `exc_info` fields of a failed job.
    pub fn of_job(&self) -> (Value, Value) {
        let (kind, errno) = match self {
            Self::Invalid(Some(_), _) => ("VALIDATION", None),
            Self::Invalid(None, _) => ("VALIDATION", Some(2)),
            Self::Call(errno, _) => ("CallError", Some(*errno)),
            Self::NoMethod => ("Exception", None),
        };
        let info = json!({"repr": "", "type": kind, "errno": errno, "extra": self.rows()});
        (json!(self.text()), info)
    }
}
