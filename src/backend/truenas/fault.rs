//! Errors of calls and jobs, as the server reports them.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// The default errno of a failed job without an errno.
const EFAULT: i64 = 14;

/// An error of the server. Decisions depend on the numbers, never on the text.
#[derive(Debug, Clone, Default)]
pub struct RpcFault {
    /// The JSON-RPC error code, or 0 for a job.
    pub(super) code: i64,
    pub errno: i64,
    pub reason: String,
    /// Attribute and errno of each row of a validation error.
    pub(super) rows: Vec<(String, i64)>,
}

impl fmt::Display for RpcFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The field `error` of a JSON-RPC response.
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

/// The field `exc_info` of a failed job.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ExcInfo {
    #[serde(rename = "type")]
    kind: Option<String>,
    errno: Option<i64>,
    extra: Option<Value>,
}

impl RpcFault {
    pub(super) fn from_call(error: RpcError) -> Self {
        let (errno, reason, extra) = match error.data {
            Some(data) => (data.error, data.reason, data.extra),
            None => (0, None, None),
        };
        Self {
            code: error.code,
            errno,
            reason: without_error_names(&reason.unwrap_or(error.message)),
            rows: extra.as_ref().map(rows).unwrap_or_default(),
        }
    }

    pub(super) fn from_job(error: Option<&str>, info: Option<ExcInfo>) -> Self {
        let extra = info
            .as_ref()
            .filter(|info| info.kind.as_deref() == Some("VALIDATION"))
            .and_then(|info| info.extra.as_ref());
        Self {
            code: 0,
            errno: info.as_ref().and_then(|info| info.errno).unwrap_or(EFAULT),
            reason: without_error_names(error.unwrap_or("the job failed without a reason")),
            rows: extra.map(rows).unwrap_or_default(),
        }
    }
}

fn rows(extra: &Value) -> Vec<(String, i64)> {
    let Some(rows) = extra.as_array() else {
        return Vec::new();
    };
    rows.iter()
        .filter_map(|row| {
            let attribute = row.get(0)?.as_str().unwrap_or_default();
            Some((attribute.to_owned(), row.get(2)?.as_i64()?))
        })
        .collect()
}

/// Removes `[ERRNAME] ` from every line and joins the lines.
fn without_error_names(reason: &str) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::messages::Meaning;
    use super::*;

    #[test]
    fn job_errors_have_rows_or_errno() {
        let info = json!({"repr": "", "type": "CallError", "errno": 14, "extra": [["x", "y", 2]]});
        let text = Some("[EFAULT] a: b\n[EINVAL] c\n");
        let fault = RpcFault::from_job(text, serde_json::from_value(info).unwrap());
        assert!(!fault.means(Meaning::NotFound));
        assert_eq!(fault.reason, "a: b; c");
        assert_eq!(RpcFault::from_job(None, None).errno, EFAULT);
    }
}
