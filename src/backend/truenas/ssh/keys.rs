//! The user's SSH keys for pixels: a key file or the keys of an SSH agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use tokio::sync::Mutex;

use super::host_key::HostKeyVerifier;
use crate::model::{Error, Reason, Result};
use crate::secret::Secret;

/// Prompts for the passphrase of a key file. Returns `None` without a terminal.
pub type AskPassphrase = Arc<dyn Fn(&Path) -> Option<Secret> + Send + Sync>;

/// Maximum number of attempts to enter a passphrase.
const MAX_ATTEMPTS: usize = 3;
/// Maximum number of agent keys to try. The server closes the connection after
/// six failed attempts.
const MAX_AGENT_KEYS: usize = 4;

pub(super) struct Keys {
    pub file: Option<PathBuf>,
    pub agent: Option<PathBuf>,
    pub ask_passphrase: AskPassphrase,
    /// The decrypted key file, after the user has entered the passphrase.
    pub unlocked: Mutex<Option<Arc<PrivateKey>>>,
}

enum KeyFile {
    Usable(Arc<PrivateKey>),
    Encrypted(PathBuf),
    /// The path of a key whose type only an agent can use.
    AgentOnly(PathBuf),
    Missing,
}

impl Keys {
    /// Returns the line for `authorized_keys`, from the key file or otherwise the
    /// agent's first key. Fails with `Error::Invalid` without a usable key.
    pub async fn public(&self) -> Result<String> {
        if let Some(path) = &self.file
            && let Some((line, key)) = public_key(path)
        {
            if is_supported(key.algorithm()) {
                return Ok(line);
            }
            let agent_keys = self.agent_keys().await;
            return match agent_keys.iter().any(|k| k.key_data() == key.key_data()) {
                true => Ok(line),
                false => Err(agent_required(path)),
            };
        }
        let agent_key = self.agent_keys().await.into_iter().next();
        if let Some(line) = agent_key.and_then(|key| key.to_openssh().ok()) {
            return Ok(line);
        }
        Err(match self.file().await? {
            KeyFile::AgentOnly(path) => agent_required(&path),
            _ => Error::Invalid(
                Reason::from("no SSH key found, which pixels on TrueNAS require")
                    .with_hint("run: ssh-keygen -t ed25519, or set ssh.key"),
            ),
        })
    }

    /// Logs in with the key file if not encrypted, then with the agent's keys, then
    /// with the encrypted key file after a passphrase prompt.
    pub async fn log_in(&self, handle: &mut Handle<HostKeyVerifier>, user: &str) -> Result<()> {
        let file = self.file().await?;
        if let KeyFile::Usable(key) = &file
            && with_key(handle, user, key).await?
        {
            return Ok(());
        }
        if self.log_in_by_agent(handle, user).await? {
            return Ok(());
        }
        let mut reason = Reason::from("permission denied (publickey)");
        if let KeyFile::AgentOnly(path) = &file {
            return Err(agent_required(path));
        }
        if let KeyFile::Encrypted(path) = file {
            match self.unlock(&path).await? {
                Some(key) if with_key(handle, user, &key).await? => return Ok(()),
                Some(_) => {}
                None => {
                    reason = Reason::from(
                        "the key ssh.key is encrypted, and no agent or terminal is available to \
                         enter its passphrase",
                    )
                    .with_hint(format!("run: ssh-add {}", path.display()));
                }
            }
        }
        Err(Error::Denied {
            endpoint: "the pixel's SSH server".into(),
            reason,
        })
    }

    async fn file(&self) -> Result<KeyFile> {
        if let Some(key) = &*self.unlocked.lock().await {
            return Ok(KeyFile::Usable(Arc::clone(key)));
        }
        let Some(path) = &self.file else {
            return Ok(KeyFile::Missing);
        };
        let agent_only = || KeyFile::AgentOnly(path.clone());
        Ok(match russh::keys::load_secret_key(path, None) {
            Ok(key) if !is_supported(key.algorithm()) => agent_only(),
            Ok(key) => KeyFile::Usable(Arc::new(key)),
            Err(russh::keys::Error::UnsupportedKeyType { .. }) => agent_only(),
            Err(russh::keys::Error::KeyIsEncrypted) => match public_key(path) {
                Some((_, key)) if !is_supported(key.algorithm()) => agent_only(),
                _ => KeyFile::Encrypted(path.clone()),
            },
            Err(russh::keys::Error::IO(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                KeyFile::Missing
            }
            Err(error) => {
                let text = format!("ssh.key {}: {error}", path.display());
                return Err(Error::Invalid(text.into()));
            }
        })
    }

    async fn unlock(&self, path: &Path) -> Result<Option<Arc<PrivateKey>>> {
        let mut unlocked = self.unlocked.lock().await;
        if let Some(key) = &*unlocked {
            return Ok(Some(Arc::clone(key)));
        }
        for _ in 0..MAX_ATTEMPTS {
            let (ask, asked) = (Arc::clone(&self.ask_passphrase), path.to_owned());
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
            reason: "wrong passphrase".into(),
        })
    }

    async fn agent_keys(&self) -> Vec<PublicKey> {
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

    async fn log_in_by_agent(
        &self,
        handle: &mut Handle<HostKeyVerifier>,
        user: &str,
    ) -> Result<bool> {
        let Some(socket) = &self.agent else {
            return Ok(false);
        };
        let mut agent_keys = self.agent_keys().await;
        if let Ok(line) = self.public().await {
            let authorized = line.parse::<PublicKey>().ok();
            let authorized = authorized.as_ref().map(PublicKey::key_data);
            // Tries the key in the pixel's `authorized_keys` first.
            agent_keys.sort_by_key(|key| authorized != Some(key.key_data()));
        }
        for key in agent_keys.into_iter().take(MAX_AGENT_KEYS) {
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
                Err(error) => tracing::debug!(%error, "the agent could not sign"),
            }
        }
        Ok(false)
    }
}

/// Returns the public key of a key file, from the `.pub` file or from the
/// unencrypted part of the key file.
fn public_key(path: &Path) -> Option<(String, PublicKey)> {
    let mut public_path = path.to_owned().into_os_string();
    public_path.push(".pub");
    let public_file = std::fs::read_to_string(public_path).ok();
    let line = public_file.as_deref().and_then(|text| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|line| Some((line.to_owned(), line.parse().ok()?)))
    });
    line.or_else(|| {
        let private = PrivateKey::from_openssh(std::fs::read_to_string(path).ok()?).ok()?;
        let key = private.public_key();
        Some((key.to_openssh().ok()?, key.clone()))
    })
}

/// Whether pixels can sign with keys of this type. Excludes RSA, because the
/// Rust implementation leaks information through a timing side channel.
fn is_supported(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::Ed25519 | Algorithm::Ecdsa { .. })
}

fn agent_required(path: &Path) -> Error {
    let path = path.display();
    let text = format!(
        "pixels can use the SSH key {path} only through an agent; key files must be of the type \
         ed25519 or ecdsa"
    );
    Error::Invalid(Reason::from(text).with_hint(format!(
        "run: ssh-add {path}, or: ssh-keygen -t ed25519, then set ssh.key to the new file"
    )))
}

async fn with_key(
    handle: &mut Handle<HostKeyVerifier>,
    user: &str,
    key: &Arc<PrivateKey>,
) -> Result<bool> {
    let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
    match handle.authenticate_publickey(user, key).await {
        Ok(AuthResult::Success) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(super::lost(error)),
    }
}
