//! Who we are to a pixel: the key of the settings, or what an agent holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use tokio::sync::Mutex;

use super::HostKeyVerifier;
use crate::model::{Error, Result};
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
    /// Of a kind that only an agent signs with.
    Foreign(PathBuf),
    None,
}

impl Keys {
    /// The line that lets us in; no key that could not be used to log in.
    pub async fn public(&self) -> Result<String> {
        if let Some(path) = &self.file
            && let Some((line, key)) = public_half(path)
        {
            if signs(key.algorithm()) {
                return Ok(line);
            }
            let held = self.held().await;
            return match held.iter().any(|one| one.key_data() == key.key_data()) {
                true => Ok(line),
                false => Err(only_by_agent(path)),
            };
        }
        let held = self.held().await.into_iter().next();
        if let Some(line) = held.and_then(|key| key.to_openssh().ok()) {
            return Ok(line);
        }
        Err(match self.file().await? {
            File::Foreign(path) => only_by_agent(&path),
            _ => Error::Invalid(
                "pixels on TrueNAS are worked in by SSH, and there is no key: make one with \
                 ssh-keygen -t ed25519, or set ssh.key"
                    .into(),
            ),
        })
    }

    /// Logs in: the key file where it is not locked, then what the agent
    /// holds, then the file with its passphrase.
    pub async fn log_in(&self, handle: &mut Handle<HostKeyVerifier>, user: &str) -> Result<()> {
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
        if let File::Foreign(path) = &file {
            return Err(only_by_agent(path));
        }
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
            Ok(key) if !signs(key.algorithm()) => Ok(File::Foreign(path.clone())),
            Ok(key) => Ok(File::Open(Arc::new(key))),
            Err(russh::keys::Error::UnsupportedKeyType { .. }) => Ok(File::Foreign(path.clone())),
            Err(russh::keys::Error::KeyIsEncrypted) => match public_half(path) {
                Some((_, key)) if !signs(key.algorithm()) => Ok(File::Foreign(path.clone())),
                _ => Ok(File::Locked(path.clone())),
            },
            Err(russh::keys::Error::IO(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                Ok(File::None)
            }
            Err(error) => Err(Error::Invalid(
                format!("ssh.key {}: {error}", path.display()).into(),
            )),
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

    async fn by_agent(&self, handle: &mut Handle<HostKeyVerifier>, user: &str) -> Result<bool> {
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

/// What is to be known of a key without opening it: the line beside it, or the
/// half of the file that is not encrypted.
fn public_half(path: &Path) -> Option<(String, PublicKey)> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".pub");
    let written = std::fs::read_to_string(beside).ok();
    let line = written.as_deref().and_then(|text| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|line| Some((line.to_owned(), line.parse().ok()?)))
    });
    line.or_else(|| {
        let private = PrivateKey::from_openssh(std::fs::read_to_string(path).ok()?).ok()?;
        let key = private.public_key();
        Some((key.to_openssh().ok()?, key.clone()))
    })
}

/// Whether we sign with such a key ourselves. No RSA: what there is for it can
/// be timed by whoever sees the signatures come.
fn signs(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::Ed25519 | Algorithm::Ecdsa { .. })
}

fn only_by_agent(path: &Path) -> Error {
    Error::Invalid(format!(
        "the SSH key {} is of a kind that works through an agent alone (RSA, for one): hand it to \
         one with ssh-add, or make another with ssh-keygen -t ed25519 and set ssh.key to it; \
         as files, keys of the kinds ed25519 and ecdsa work",
        path.display()
    ).into())
}

async fn with_key(
    handle: &mut Handle<HostKeyVerifier>,
    user: &str,
    key: &Arc<PrivateKey>,
) -> Result<bool> {
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
