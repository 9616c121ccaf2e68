//! Errors in the server's own form.

use serde_json::{Value, json};

/// How a call or a job fails.
#[derive(Debug, Clone)]
pub enum Fail {
    /// Rows of attribute, message and errno; `list` distinguishes several from one.
    Invalid {
        rows: Vec<(Option<String>, String, i64)>,
        list: bool,
    },
    Call {
        errno: i64,
        reason: String,
    },
    Missing,
}

pub type Outcome = Result<Value, Fail>;

pub fn invalid(attribute: &str, message: impl Into<String>) -> Fail {
    Fail::Invalid {
        rows: vec![(Some(attribute.to_owned()), message.into(), 22)],
        list: true,
    }
}

pub fn not_found(word: &str, id: &str) -> Fail {
    Fail::Invalid {
        rows: vec![(None, format!("{word} {id} does not exist"), 2)],
        list: false,
    }
}

pub fn call(errno: i64, reason: impl Into<String>) -> Fail {
    Fail::Call {
        errno,
        reason: reason.into(),
    }
}

fn name(errno: i64) -> &'static str {
    match errno {
        1 => "EPERM",
        2 => "ENOENT",
        13 => "EACCES",
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
            Self::Invalid { rows, .. } => json!(rows),
            _ => Value::Null,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Invalid { rows, list } => rows
                .iter()
                .map(|(attribute, message, errno)| {
                    let attribute = attribute.as_deref().unwrap_or("None");
                    let end = if *list { "\n" } else { "" };
                    format!("[{}] {attribute}: {message}{end}", name(*errno))
                })
                .collect(),
            Self::Call { errno, reason } => format!("[{}] {reason}", name(*errno)),
            Self::Missing => String::new(),
        }
    }

    fn trace(&self) -> Value {
        // What must never be printed.
        json!({"class": "CallError", "frames": [{"locals": {"api_key": super::API_KEY}}],
               "formatted": "Traceback", "repr": ""})
    }

    /// The `error` member of an answer.
    pub fn of_call(&self) -> Value {
        let text = self.text();
        match self {
            Self::Missing => json!({"code": -32601, "message": "Method does not exist"}),
            Self::Invalid { .. } => json!({
                "code": -32602, "message": "Invalid params",
                "data": {"error": 22, "errname": "EINVAL", "reason": text,
                         "trace": self.trace(), "extra": self.rows()},
            }),
            Self::Call { errno, .. } => json!({
                "code": -32001, "message": "Method call error",
                "data": {"error": errno, "errname": name(*errno), "reason": text,
                         "trace": self.trace(), "extra": null},
            }),
        }
    }

    /// `error` and `exc_info` of a job.
    pub fn of_job(&self) -> (Value, Value) {
        let info = match self {
            Self::Invalid { rows, list } => json!({
                "repr": "ValidationErrors(...)", "type": "VALIDATION",
                "errno": if *list { Value::Null } else { json!(rows[0].2) },
                "extra": self.rows(),
            }),
            Self::Call { errno, .. } => {
                json!({"repr": "CallError(...)", "type": "CallError", "errno": errno, "extra": null})
            }
            Self::Missing => json!({"repr": "", "type": "Exception", "errno": null, "extra": null}),
        };
        (json!(self.text()), info)
    }
}
