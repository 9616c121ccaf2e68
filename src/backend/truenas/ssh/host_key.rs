//! Verifies the host key of a pixel.

use std::sync::{Arc, Mutex, PoisonError};

use russh::client;
use russh::keys::PublicKeyOrCertificate;

use super::known_hosts::KnownHosts;
use super::log_failure;
use crate::model::{Error, Reason};

/// Accepts the recorded host key of an instance. Records the key of a new instance.
/// With `strict`, rejects a changed key; otherwise records the changed key.
pub(super) struct HostKeyVerifier {
    pub known_hosts: Arc<KnownHosts>,
    pub host: String,
    pub strict: bool,
    /// The reason for a rejected key, which russh does not return.
    pub rejection: Arc<Mutex<Option<Error>>>,
}

impl client::Handler for HostKeyVerifier {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        server_key: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = server_key else {
            return Ok(false);
        };
        let mut key = key.clone();
        key.set_comment("");
        let line = key.to_openssh()?.trim().to_owned();
        let recorded = self.known_hosts.key(&self.host);
        if recorded.as_ref() == Some(&line) {
            return Ok(true);
        }
        if recorded.is_some() && self.strict {
            let path = self.known_hosts.path.as_deref();
            let hint = format!(
                "if you expected the change, remove the line {:?} from {}",
                self.host,
                path.unwrap_or("known_hosts".as_ref()).display()
            );
            let error = Error::Denied {
                endpoint: "the pixel".into(),
                reason: Reason::from("the SSH host key has changed").with_hint(hint),
            };
            *self
                .rejection
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(error);
            return Ok(false);
        }
        tracing::debug!(host = self.host, "recording a new host key");
        log_failure(self.known_hosts.insert(&self.host, &line));
        Ok(true)
    }
}
