//! Who we are to a pixel: the key of the settings, or what an agent holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use tokio::sync::Mutex;

use super::Checker;
use crate::sandbox::{Error, Result};
use crate::secret::Secret;

/// Asks for the passphrase of this key; `None` where nobody can be asked.
pub type Ask = Arc<dyn Fn(&Path) -> Option<Secret> + Send + Sync>;

/// So often a passphrase may be mistyped.
const TRIES: usize = 3;
/// A server ends the connection after six keys it does not take.
const OFFERED: usize = 4;

pub(super) struct Keys {
    pub file: Option<PathBuf>,
    pub agent: Option<PathBuf>,
    pub ask: Ask,
    /// Once a passphrase was asked for, it is not asked for again.
    pub unlocked: Mutex<Option<Arc<PrivateKey>>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("file", &self.file)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

enum File {
    Open(Arc<PrivateKey>),
    Locked(PathBuf),
    None,
}

impl Keys {
    /// The line that lets us in.
    pub async fn public(&self) -> Result<String> {
        if let Some(path) = &self.file {
            let mut beside = path.clone().into_os_string();
            beside.push(".pub");
            let written = std::fs::read_to_string(beside).ok();
            let line = written.as_deref().and_then(|text| {
                text.lines()
                    .map(str::trim)
                    .find(|line| line.parse::<PublicKey>().is_ok())
            });
            if let Some(line) = line {
                return Ok(line.to_owned());
            }
            // The public half is not encrypted.
            let private = std::fs::read_to_string(path).ok();
            let private = private.and_then(|text| PrivateKey::from_openssh(text).ok());
            if let Some(line) = private.and_then(|key| key.public_key().to_openssh().ok()) {
                return Ok(line);
            }
        }
        let held = self.held().await.into_iter().next();
        held.and_then(|key| key.to_openssh().ok()).ok_or_else(|| {
            Error::Invalid(
                "pixels on TrueNAS are worked in by SSH, and there is no key: make one with \
                 ssh-keygen -t ed25519, or set ssh.key"
                    .into(),
            )
        })
    }

    /// Logs in: the key file where it is not locked, then what the agent
    /// holds, then the file with its passphrase.
    pub async fn log_in(&self, handle: &mut Handle<Checker>, user: &str) -> Result<()> {
        let file = self.file().await?;
        if let File::Open(key) = &file
            && with_key(handle, user, key).await?
        {
            return Ok(());
        }
        if self.by_agent(handle, user).await? {
            return Ok(());
        }
        let mut reason = "it takes none of our keys";
        if let File::Locked(path) = file {
            match self.unlock(&path).await? {
                Some(key) if with_key(handle, user, &key).await? => return Ok(()),
                Some(_) => {}
                None => {
                    reason = "the key of ssh.key has a passphrase, which no agent and no terminal \
                              is there to give";
                }
            }
        }
        Err(Error::Denied {
            endpoint: "the pixel's SSH server".into(),
            reason: reason.into(),
        })
    }

    async fn file(&self) -> Result<File> {
        if let Some(key) = &*self.unlocked.lock().await {
            return Ok(File::Open(Arc::clone(key)));
        }
        let Some(path) = &self.file else {
            return Ok(File::None);
        };
        match russh::keys::load_secret_key(path, None) {
            Ok(key) => Ok(File::Open(Arc::new(key))),
            Err(russh::keys::Error::KeyIsEncrypted) => Ok(File::Locked(path.clone())),
            Err(russh::keys::Error::IO(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                Ok(File::None)
            }
            Err(error) => Err(Error::Invalid(format!(
                "ssh.key {}: {error}",
                path.display()
            ))),
        }
    }

    async fn unlock(&self, path: &Path) -> Result<Option<Arc<PrivateKey>>> {
        let mut unlocked = self.unlocked.lock().await;
        if let Some(key) = &*unlocked {
            return Ok(Some(Arc::clone(key)));
        }
        for _ in 0..TRIES {
            let (ask, asked) = (Arc::clone(&self.ask), path.to_owned());
            let answer = tokio::task::spawn_blocking(move || ask(&asked)).await;
            let Ok(Some(passphrase)) = answer else {
                return Ok(None);
            };
            if let Ok(key) = russh::keys::load_secret_key(path, Some(passphrase.expose())) {
                let key = Arc::new(key);
                *unlocked = Some(Arc::clone(&key));
                return Ok(Some(key));
            }
        }
        Err(Error::Denied {
            endpoint: format!("the key {}", path.display()),
            reason: "that is not its passphrase".into(),
        })
    }

    async fn held(&self) -> Vec<PublicKey> {
        let Some(socket) = &self.agent else {
            return Vec::new();
        };
        let keys = async {
            let mut agent = AgentClient::connect_uds(socket).await.ok()?;
            agent.request_identities().await.ok()
        };
        keys.await
            .unwrap_or_default()
            .into_iter()
            .filter_map(|identity| match identity {
                AgentIdentity::PublicKey { key, .. } => Some(key),
                AgentIdentity::Certificate { .. } => None,
            })
            .collect()
    }

    async fn by_agent(&self, handle: &mut Handle<Checker>, user: &str) -> Result<bool> {
        let Some(socket) = &self.agent else {
            return Ok(false);
        };
        let mut held = self.held().await;
        if let Ok(ours) = self.public().await {
            let ours = ours.parse::<PublicKey>().ok();
            // The key that pixels are made with comes first.
            held.sort_by_key(|key| ours.as_ref().map(PublicKey::key_data) != Some(key.key_data()));
        }
        for key in held.into_iter().take(OFFERED) {
            let Ok(mut agent) = AgentClient::connect_uds(socket).await else {
                return Ok(false);
            };
            let hash = handle
                .best_supported_rsa_hash()
                .await
                .ok()
                .flatten()
                .flatten();
            match handle
                .authenticate_publickey_with(user, key, hash, &mut agent)
                .await
            {
                Ok(outcome) if outcome.success() => return Ok(true),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "agent"),
            }
        }
        Ok(false)
    }
}

async fn with_key(handle: &mut Handle<Checker>, user: &str, key: &Arc<PrivateKey>) -> Result<bool> {
    let hash = handle
        .best_supported_rsa_hash()
        .await
        .ok()
        .flatten()
        .flatten();
    let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
    match handle.authenticate_publickey(user, key).await {
        Ok(AuthResult::Success) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(super::lost(error)),
    }
}
