//! Error codes of the server that decisions depend on. Error texts are shown to
//! the user, but never interpreted.
//!
//! Source: truenas/middleware at the tag of the named release. The samples are
//! composed from that source, not recorded from a running server.

use super::fault::RpcFault;

/// The meaning of an error of a call or a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    NotFound,
    Exists,
    /// The server rejected the call because too many calls are in progress.
    TooManyCalls,
    NoMethod,
    /// The session has ended, and the server did not execute the call.
    LoggedOut,
    Denied,
    /// Too many logins came from this address.
    RateLimited,
    NameInUse,
    PoolNotFound,
    /// The snapshot has clones and cannot be deleted.
    HasClones,
    /// The method accepts no options argument.
    NoOptions,
}

const INVALID_PARAMS: i64 = -32602;

impl RpcFault {
    /// Whether the error has this meaning. Errnos: 1 EPERM, 2 ENOENT, 13 EACCES, 16
    /// EBUSY, 17 EEXIST, and TrueNAS's own 207 ENOTAUTHENTICATED.
    pub(super) fn means(&self, meaning: Meaning) -> bool {
        // The errno of an error other than a validation error.
        let errno = |known| self.errno == known && self.code != INVALID_PARAMS;
        // The errno of any row of a validation error.
        let row = |known| self.rows.iter().any(|(_, errno)| *errno == known);
        let attribute = |known| self.rows.iter().any(|(attribute, _)| attribute == known);
        match meaning {
            Meaning::NotFound => errno(2) || row(2),
            Meaning::Exists => errno(17) || row(17),
            Meaning::TooManyCalls => self.code == -32000,
            Meaning::NoMethod => self.code == -32601,
            Meaning::LoggedOut => errno(207),
            Meaning::Denied => errno(207) || errno(1) || errno(13) || row(13),
            Meaning::RateLimited => errno(16),
            Meaning::NameInUse => attribute("virt_instance_create.name"),
            Meaning::PoolNotFound => attribute("virt_instance_create.storage_pool"),
            Meaning::HasClones => attribute("options.defer") || row(16),
            Meaning::NoOptions => attribute(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Meaning, first release with the message, and a sample: the `error` of a call
    /// or a failed job.
    #[rustfmt::skip]
    const SAMPLES: &[(Meaning, &str, &str)] = &[
        (Meaning::NotFound, "25.04",
            r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "errname": "EINVAL", "reason": "[ENOENT] None: VirtInstance px-a does not exist", "trace": null, "extra": [[null, "VirtInstance px-a does not exist", 2]]}}"#),
        (Meaning::NotFound, "25.04",
            r#"{"code": -32001, "message": "Method call error", "data": {"error": 2, "reason": "[ENOENT] Device not found.", "extra": null}}"#),
        (Meaning::Exists, "25.04",
            r#"{"code": -32001, "message": "Method call error", "data": {"error": 17, "reason": "[EEXIST] Failed to snapshot tank/a@b: dataset already exists", "extra": null}}"#),
        (Meaning::Exists, "26.0",
            r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EEXIST] snapshot_create: exists", "extra": [["snapshot_create", "exists", 17]]}}"#),
        (Meaning::TooManyCalls, "25.04",
            r#"{"code": -32000, "message": "Maximum number of concurrent calls (20) has exceeded"}"#),
        (Meaning::NoMethod, "25.04",
            r#"{"code": -32601, "message": "Method does not exist"}"#),
        (Meaning::LoggedOut, "25.04",
            r#"{"code": -32001, "message": "Method call error", "data": {"error": 207, "errname": "ENOTAUTHENTICATED", "reason": "[ENOTAUTHENTICATED] Not authenticated", "extra": null}}"#),
        (Meaning::Denied, "25.04",
            r#"{"code": -32001, "message": "Method call error", "data": {"error": 207, "errname": "ENOTAUTHENTICATED", "reason": "[ENOTAUTHENTICATED] Not authenticated", "extra": null}}"#),
        (Meaning::Denied, "25.04",
            r#"{"code": -32001, "message": "Method call error", "data": {"error": 1, "errname": "EPERM", "reason": "[EPERM] Not allowed", "extra": null}}"#),
        (Meaning::Denied, "25.04",
            r#"{"code": -32001, "message": "Method call error", "data": {"error": 13, "errname": "EACCES", "reason": "[EACCES] Not authorized", "extra": null}}"#),
        (Meaning::Denied, "25.04",
            r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EACCES] a: Not authorized", "extra": [["a", "Not authorized", 13]]}}"#),
        (Meaning::RateLimited, "25.04",
            r#"{"code": -32001, "message": "Method call error", "data": {"error": 16, "errname": "EBUSY", "reason": "[EBUSY] Rate Limit Exceeded", "extra": null}}"#),
        (Meaning::NameInUse, "25.04",
            r#"{"error": "[EINVAL] virt_instance_create.name: Name 'px-a' already exists\n", "exc_info": {"repr": "", "type": "VALIDATION", "errno": null, "extra": [["virt_instance_create.name", "Name 'px-a' already exists", 22]]}}"#),
        (Meaning::PoolNotFound, "25.04",
            r#"{"error": "[EINVAL] virt_instance_create.storage_pool: Not a valid ZFS pool\n", "exc_info": {"repr": "", "type": "VALIDATION", "errno": null, "extra": [["virt_instance_create.storage_pool", "Not a valid ZFS pool", 22]]}}"#),
        (Meaning::HasClones, "25.04",
            r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EINVAL] options.defer: Please set this attribute as there are clones", "extra": [["options.defer", "Please set this attribute as there are clones", 22]]}}"#),
        (Meaning::HasClones, "26.0",
            r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EBUSY] snapshot_delete: has clones", "extra": [["snapshot_delete", "has clones", 16]]}}"#),
        (Meaning::NoOptions, "26.0",
            r#"{"code": -32602, "message": "Invalid params", "data": {"error": 22, "reason": "[EINVAL] : Too many arguments (expected 1, found 2)", "extra": [["", "Too many arguments (expected 1, found 2)", 22]]}}"#),
    ];

    fn fault(sample: &str) -> RpcFault {
        let sample: Value = serde_json::from_str(sample).unwrap();
        match sample.get("exc_info") {
            Some(info) => {
                let info = serde_json::from_value(info.clone()).unwrap();
                RpcFault::from_job(sample["error"].as_str(), Some(info))
            }
            None => RpcFault::from_call(serde_json::from_value(sample).unwrap()),
        }
    }

    #[test]
    fn samples_have_their_meaning_and_no_other() {
        for (meaning, release, sample) in SAMPLES {
            assert!(
                fault(sample).means(*meaning),
                "{meaning:?} of {release}: {sample}"
            );
        }
        let first = |meaning: Meaning| {
            let found = SAMPLES.iter().find(|(known, ..)| *known == meaning);
            fault(found.unwrap().2)
        };
        assert!(!first(Meaning::NotFound).means(Meaning::Exists));
        assert!(!first(Meaning::HasClones).means(Meaning::NotFound));
        assert!(!first(Meaning::RateLimited).means(Meaning::HasClones));
    }
}
