//! The server's codes and words that decide what pixels does, one row each.
//! All other texts of the server are shown, never interpreted.
//!
//! Source: truenas/middleware at the tag of the named release. The samples are
//! composed from that source and not recorded from a live server.

/// What a message of the server means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    NotFound,
    Exists,
    /// The call was refused before it ran: too many calls are in progress.
    TooManyCalls,
    NoMethod,
    /// The session has ended, and the call was not carried out.
    LoggedOut,
    Denied,
    /// Too many logins from this address.
    RateLimited,
    NameInUse,
    PoolNotFound,
    /// The snapshot has clones.
    HasClones,
    /// The method accepts no options.
    NoOptions,
    LoggedIn,
    KeyRejected,
    KeyExpired,
    SecondFactor,
    Standby,
    NoApiAccess,
    /// The client's address is not in the allow list of the web UI.
    AddressNotAllowed,
    JobSucceeded,
    JobFailed,
    JobAborted,
    /// The containers service is ready.
    ServiceReady,
}

/// A message, or the part of it that decides.
#[derive(Debug, Clone, Copy)]
pub(super) enum Message<'a> {
    /// An error of a call (`code` is that of JSON-RPC) or of a job (`code` is 0),
    /// with attribute and errno of every row of a validation error.
    Fault {
        code: i64,
        errno: i64,
        rows: &'a [(String, i64)],
    },
    /// `response_type` of `auth.login_ex`.
    Login(&'a str),
    /// Code of a WebSocket close frame.
    Close(u16),
    /// `state` of a job.
    Job(&'a str),
    /// `state` of `virt.global.config`.
    Service(&'a str),
}

enum Pattern {
    /// The code of JSON-RPC.
    Code(i64),
    /// The errno of an error that is not a validation error.
    Errno(i64),
    /// The errno of a row of a validation error.
    RowErrno(i64),
    /// The attribute of a row of a validation error.
    Attribute(&'static str),
    Login(&'static str),
    Close(u16),
    Job(&'static str),
    Service(&'static str),
}

struct Row {
    pattern: Pattern,
    meaning: Meaning,
    /// First release with this message.
    #[cfg_attr(not(test), allow(dead_code))]
    release: &'static str,
    /// JSON: the `error` of a call, a failed job, or the deciding value.
    #[cfg_attr(not(test), allow(dead_code))]
    sample: &'static str,
}

const INVALID_PARAMS: i64 = -32602;

const fn row(
    pattern: Pattern,
    meaning: Meaning,
    release: &'static str,
    sample: &'static str,
) -> Row {
    Row {
        pattern,
        meaning,
        release,
        sample,
    }
}

/// Numbers: 1 EPERM, 2 ENOENT, 13 EACCES, 16 EBUSY, 17 EEXIST, and
/// 207 ENOTAUTHENTICATED of TrueNAS.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(Pattern::RowErrno(2), Meaning::NotFound, "25.04",
        r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "errname": "EINVAL", "reason": "[ENOENT] None: VirtInstance px-a does not exist", "trace": null, "extra": [[null, "VirtInstance px-a does not exist", 2]]}}"#),
    row(Pattern::Errno(2), Meaning::NotFound, "25.04",
        r#"{"code": -32001, "message": "Method call error", "data": {"error": 2, "reason": "[ENOENT] Device not found.", "extra": null}}"#),
    row(Pattern::Errno(17), Meaning::Exists, "25.04",
        r#"{"code": -32001, "message": "Method call error", "data": {"error": 17, "reason": "[EEXIST] Failed to snapshot tank/a@b: dataset already exists", "extra": null}}"#),
    row(Pattern::RowErrno(17), Meaning::Exists, "26.0",
        r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EEXIST] snapshot_create: exists", "extra": [["snapshot_create", "exists", 17]]}}"#),
    row(Pattern::Code(-32000), Meaning::TooManyCalls, "25.04",
        r#"{"code": -32000, "message": "Maximum number of concurrent calls (20) has exceeded"}"#),
    row(Pattern::Code(-32601), Meaning::NoMethod, "25.04",
        r#"{"code": -32601, "message": "Method does not exist"}"#),
    row(Pattern::Errno(207), Meaning::LoggedOut, "25.04",
        r#"{"code": -32001, "message": "Method call error", "data": {"error": 207, "errname": "ENOTAUTHENTICATED", "reason": "[ENOTAUTHENTICATED] Not authenticated", "extra": null}}"#),
    row(Pattern::Errno(207), Meaning::Denied, "25.04",
        r#"{"code": -32001, "message": "Method call error", "data": {"error": 207, "errname": "ENOTAUTHENTICATED", "reason": "[ENOTAUTHENTICATED] Not authenticated", "extra": null}}"#),
    row(Pattern::Errno(1), Meaning::Denied, "25.04",
        r#"{"code": -32001, "message": "Method call error", "data": {"error": 1, "errname": "EPERM", "reason": "[EPERM] Not allowed", "extra": null}}"#),
    row(Pattern::Errno(13), Meaning::Denied, "25.04",
        r#"{"code": -32001, "message": "Method call error", "data": {"error": 13, "errname": "EACCES", "reason": "[EACCES] Not authorized", "extra": null}}"#),
    row(Pattern::RowErrno(13), Meaning::Denied, "25.04",
        r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EACCES] a: Not authorized", "extra": [["a", "Not authorized", 13]]}}"#),
    row(Pattern::Errno(16), Meaning::RateLimited, "25.04",
        r#"{"code": -32001, "message": "Method call error", "data": {"error": 16, "errname": "EBUSY", "reason": "[EBUSY] Rate Limit Exceeded", "extra": null}}"#),
    row(Pattern::Attribute("virt_instance_create.name"), Meaning::NameInUse, "25.04",
        r#"{"error": "[EINVAL] virt_instance_create.name: Name 'px-a' already exists\n", "exc_info": {"repr": "", "type": "VALIDATION", "errno": null, "extra": [["virt_instance_create.name", "Name 'px-a' already exists", 22]]}}"#),
    row(Pattern::Attribute("virt_instance_create.storage_pool"), Meaning::PoolNotFound, "25.04",
        r#"{"error": "[EINVAL] virt_instance_create.storage_pool: Not a valid ZFS pool\n", "exc_info": {"repr": "", "type": "VALIDATION", "errno": null, "extra": [["virt_instance_create.storage_pool", "Not a valid ZFS pool", 22]]}}"#),
    row(Pattern::Attribute("options.defer"), Meaning::HasClones, "25.04",
        r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EINVAL] options.defer: Please set this attribute as there are clones", "extra": [["options.defer", "Please set this attribute as there are clones", 22]]}}"#),
    row(Pattern::RowErrno(16), Meaning::HasClones, "26.0",
        r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EBUSY] snapshot_delete: has clones", "extra": [["snapshot_delete", "has clones", 16]]}}"#),
    row(Pattern::Attribute(""), Meaning::NoOptions, "26.0",
        r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EINVAL] : Too many arguments (expected 1, found 2)", "extra": [["", "Too many arguments (expected 1, found 2)", 22]]}}"#),
    row(Pattern::Login("SUCCESS"), Meaning::LoggedIn, "25.04", r#""SUCCESS""#),
    row(Pattern::Login("AUTH_ERR"), Meaning::KeyRejected, "25.04", r#""AUTH_ERR""#),
    row(Pattern::Login("EXPIRED"), Meaning::KeyExpired, "25.04", r#""EXPIRED""#),
    row(Pattern::Login("OTP_REQUIRED"), Meaning::SecondFactor, "25.04", r#""OTP_REQUIRED""#),
    row(Pattern::Login("REDIRECT"), Meaning::Standby, "25.04", r#""REDIRECT""#),
    row(Pattern::Login("DENIED"), Meaning::NoApiAccess, "25.04", r#""DENIED""#),
    row(Pattern::Close(1008), Meaning::AddressNotAllowed, "25.04", "1008"),
    row(Pattern::Job("SUCCESS"), Meaning::JobSucceeded, "25.04", r#""SUCCESS""#),
    row(Pattern::Job("FAILED"), Meaning::JobFailed, "25.04", r#""FAILED""#),
    row(Pattern::Job("ABORTED"), Meaning::JobAborted, "25.04", r#""ABORTED""#),
    row(Pattern::Service("INITIALIZED"), Meaning::ServiceReady, "25.04", r#""INITIALIZED""#),
];

impl Message<'_> {
    pub fn means(self, meaning: Meaning) -> bool {
        self.meanings().any(|found| found == meaning)
    }

    /// The first meaning, for messages that have only one.
    pub fn meaning(self) -> Option<Meaning> {
        self.meanings().next()
    }

    fn meanings(self) -> impl Iterator<Item = Meaning> {
        let rows = ROWS.iter().filter(move |row| row.pattern.matches(self));
        rows.map(|row| row.meaning)
    }
}

impl Pattern {
    fn matches(&self, message: Message<'_>) -> bool {
        match (self, message) {
            (Self::Code(known), Message::Fault { code, .. }) => *known == code,
            (Self::Errno(known), Message::Fault { code, errno, .. }) => {
                *known == errno && code != INVALID_PARAMS
            }
            (Self::RowErrno(known), Message::Fault { rows, .. }) => {
                rows.iter().any(|(_, errno)| errno == known)
            }
            (Self::Attribute(known), Message::Fault { rows, .. }) => {
                rows.iter().any(|(attribute, _)| attribute == known)
            }
            (Self::Login(known), Message::Login(word))
            | (Self::Job(known), Message::Job(word))
            | (Self::Service(known), Message::Service(word)) => *known == word,
            (Self::Close(known), Message::Close(code)) => *known == code,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fault::RpcFault;
    use super::*;

    #[test]
    fn every_sample_has_its_meaning() {
        for row in ROWS {
            let sample: Value = serde_json::from_str(row.sample).unwrap();
            let word = || sample.as_str().unwrap();
            let means = match row.pattern {
                Pattern::Login(_) => Message::Login(word()).means(row.meaning),
                Pattern::Job(_) => Message::Job(word()).means(row.meaning),
                Pattern::Service(_) => Message::Service(word()).means(row.meaning),
                Pattern::Close(_) => {
                    let code = u16::try_from(sample.as_u64().unwrap()).unwrap();
                    Message::Close(code).means(row.meaning)
                }
                _ => match sample.get("exc_info") {
                    Some(info) => {
                        let info = serde_json::from_value(info.clone()).unwrap();
                        RpcFault::from_job(sample["error"].as_str(), Some(info))
                    }
                    None => RpcFault::from_call(serde_json::from_value(sample.clone()).unwrap()),
                }
                .means(row.meaning),
            };
            assert!(means, "{:?}: {}", row.meaning, row.sample);
            assert!(["25.04", "26.0"].contains(&row.release));
        }
    }

    #[test]
    fn messages_have_no_other_meaning() {
        let sample = |meaning: Meaning| ROWS.iter().find(|row| row.meaning == meaning).unwrap();
        let fault =
            |meaning| RpcFault::from_call(serde_json::from_str(sample(meaning).sample).unwrap());
        assert!(!fault(Meaning::NotFound).means(Meaning::Exists));
        assert!(!fault(Meaning::HasClones).means(Meaning::NotFound));
        assert!(!fault(Meaning::RateLimited).means(Meaning::HasClones));
        assert_eq!(Message::Login("OTHER").meaning(), None);
        assert_eq!(Message::Close(1000).meaning(), None);
    }
}
