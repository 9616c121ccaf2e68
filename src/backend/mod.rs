//! Backends: the servers that run pixels. [`open`] selects a backend by the
//! settings.

pub mod incus;
mod sftp;
pub(crate) mod tls;
pub mod truenas;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{BackendKind, Settings};
use crate::model::{Backend, Error, Result};
use crate::secret::Secret;
use crate::term;
use crate::user_dirs;

use incus::{Endpoint, Incus, Options, Placement, Remote};
use tls::TlsOptions;
use truenas::Truenas;

/// Socket paths of distribution packages, in order of preference.
const SOCKETS: [&str; 2] = ["/var/lib/incus/unix.socket", "/run/incus/unix.socket"];

/// Opens the configured backend without sending a request.
pub fn open(settings: &Settings) -> Result<Box<dyn Backend>> {
    match settings.backend {
        BackendKind::Incus => Ok(Box::new(Incus::new(incus_options(settings))?)),
        BackendKind::TrueNas => Ok(Box::new(Truenas::new(truenas_options(settings)?)?)),
    }
}

fn truenas_options(settings: &Settings) -> Result<truenas::Options> {
    let nas = &settings.truenas;
    let defaults = &settings.defaults;
    let need = |key: &str| Error::Invalid(format!("the truenas backend needs {key}").into());
    if defaults.network.is_some() {
        return Err(Error::Invalid(
            "defaults.network is a network of Incus; on TrueNAS set defaults.parent".into(),
        ));
    }
    let env = |name: &str| std::env::var_os(name);
    Ok(truenas::Options {
        server: truenas::Server {
            host: nas.host.clone().ok_or_else(|| need("truenas.host"))?,
            port: nas.port,
            server_cert: nas.server_cert.clone(),
            fingerprint: nas.fingerprint.clone(),
            insecure: nas.insecure_skip_verify,
        },
        login: truenas::Login {
            user: nas.username.clone(),
            key: nas.api_key.clone().ok_or_else(|| need("truenas.api_key"))?,
        },
        placement: truenas::Placement {
            pool: defaults.pool.clone(),
            dataset_prefix: settings.checkpoint.dataset_prefix.clone(),
            nic: truenas::NicOptions {
                kind: defaults.nic_type,
                parent: defaults.parent.clone(),
            },
            image: defaults.image.clone(),
        },
        ssh: truenas::SshSettings {
            key: settings.ssh.key.clone(),
            agent: env("SSH_AUTH_SOCK")
                .filter(|s| !s.is_empty())
                .map(PathBuf::from),
            // Without a home directory, pixels does not record host keys.
            known_hosts: user_dirs::config_dir(&env)
                .ok()
                .map(|dir| dir.join("known_hosts")),
            strict: settings.ssh.strict_host_keys,
            ask_passphrase: Arc::new(|key| {
                term::ask_secret(&format!("Passphrase of {}: ", key.display())).map(Secret::new)
            }),
        },
    })
}

/// Returns the configured server and project, for messages.
pub fn describe(settings: &Settings) -> String {
    if settings.backend == BackendKind::TrueNas {
        let nas = &settings.truenas;
        let host = nas.host.as_deref().unwrap_or("TrueNAS");
        return format!("{host}:{}", nas.port);
    }
    let endpoint = match endpoint(settings) {
        Endpoint::Https(remote) => remote.url,
        Endpoint::Unix(path) => path.display().to_string(),
    };
    match &settings.incus.project {
        Some(project) => format!("{endpoint} project {project}"),
        None => endpoint,
    }
}

/// Returns the Incus settings, also for `pixels setup` and `pixels doctor`.
pub fn incus_options(settings: &Settings) -> Options {
    let defaults = &settings.defaults;
    Options {
        endpoint: endpoint(settings),
        project: settings.incus.project.clone(),
        image_server: settings.incus.image_server.clone(),
        placement: Placement {
            pool: defaults.pool.clone(),
            network: defaults.network.clone(),
            parent: defaults.parent.clone(),
            nic: defaults.nic_type,
            disk: defaults.disk_mib.map(|mib| mib << 20),
        },
    }
}

fn endpoint(settings: &Settings) -> Endpoint {
    let incus = &settings.incus;
    match &incus.remote {
        Some(url) => Endpoint::Https(Remote {
            url: url.clone(),
            client_cert: incus.client_cert.clone(),
            client_key: incus.client_key.clone(),
            trust: TlsOptions {
                server_cert: incus.server_cert.clone(),
                insecure: incus.insecure,
                fingerprint: None,
            },
        }),
        None => Endpoint::Unix(socket(incus.socket.clone(), &|name| {
            std::env::var_os(name).filter(|value| !value.is_empty())
        })),
    }
}

/// Returns the daemon's socket: the setting, `INCUS_SOCKET` or `INCUS_DIR` as
/// in the `incus` command, or a socket of a distribution package.
fn socket(
    configured: Option<PathBuf>,
    env: &dyn Fn(&str) -> Option<std::ffi::OsString>,
) -> PathBuf {
    configured
        .or_else(|| env("INCUS_SOCKET").map(PathBuf::from))
        .or_else(|| env("INCUS_DIR").map(|dir| PathBuf::from(dir).join("unix.socket")))
        .unwrap_or_else(|| {
            SOCKETS
                .iter()
                .map(PathBuf::from)
                .find(|path| path.exists())
                .unwrap_or_else(|| PathBuf::from(SOCKETS[0]))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_setting_overrides_environment() {
        let env = |name: &str| match name {
            "INCUS_DIR" => Some("/srv/incus".into()),
            _ => None,
        };
        assert_eq!(socket(Some("/a".into()), &env), PathBuf::from("/a"));
        assert_eq!(socket(None, &env), PathBuf::from("/srv/incus/unix.socket"));
    }
}
