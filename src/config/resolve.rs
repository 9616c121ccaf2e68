//! Merged layers to typed settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;

use super::error::{ConfigError, Warning};
use super::keys::{self, KEYS, Kind};
use super::layer::{Item, Merged, refused};
use super::origin::{Entry, Origin, Origins, Place};
use super::paths::{self, Env};
use super::settings::{
    BackendKind, CheckpointSettings, ConsoleSettings, Defaults, EgressMode, EgressPlacement,
    IncusSettings, McpSettings, Multiplexer, NetworkSettings, NicType, ProvisionSettings, Settings,
    SshSettings, TrueNasSettings,
};
use super::{bases, duration, guest_env};
use crate::secret::Secret;

pub(super) fn settings(
    merged: &Merged,
    env: &Env<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Settings, ConfigError> {
    let guest_env = guest_env::read(merged, warnings)?;
    let mut read = Reader {
        merged,
        env,
        warnings,
    };
    let base_prefix = read.text_or_default("mcp.base_prefix")?;
    Ok(Settings {
        backend: read.word("backend", BackendKind::from_name)?,
        incus: IncusSettings {
            socket: read.path("incus.socket")?,
            remote: read.optional("incus.remote")?,
            client_cert: read.path("incus.client_cert")?,
            client_key: read.path("incus.client_key")?,
            server_cert: read.path("incus.server_cert")?,
            project: read.optional("incus.project")?,
            image_server: read.text("incus.image_server")?,
            insecure: read.bool("incus.insecure")?,
        },
        truenas: TrueNasSettings {
            host: read.optional("truenas.host")?,
            port: read.port("truenas.port")?,
            username: read.text("truenas.username")?,
            api_key: read.optional("truenas.api_key")?.map(Secret::new),
            server_cert: read.path("truenas.server_cert")?,
            fingerprint: read.optional("truenas.fingerprint")?,
            insecure_skip_verify: read.bool("truenas.insecure_skip_verify")?,
        },
        defaults: Defaults {
            image: read.text("defaults.image")?,
            cpu: read.optional("defaults.cpu")?,
            memory_mib: read.number("defaults.memory")?,
            pool: read.optional("defaults.pool")?,
            nic_type: read.optional_word("defaults.nic_type", NicType::from_name)?,
            parent: read.optional("defaults.parent")?,
            network: read.optional("defaults.network")?,
            dns: read.list("defaults.dns")?,
        },
        ssh: SshSettings {
            user: read.text("ssh.user")?,
            key: read.path("ssh.key")?,
            strict_host_keys: read.bool("ssh.strict_host_keys")?,
        },
        checkpoint: CheckpointSettings {
            dataset_prefix: read.optional("checkpoint.dataset_prefix")?,
        },
        provision: ProvisionSettings {
            enabled: read.bool("provision.enabled")?,
            devtools: read.bool("provision.devtools")?,
            tools: read.list("provision.tools")?,
            installer_url: read.text("provision.installer_url")?,
            ca_certs: read.paths("provision.ca_certs")?,
            script: read.path("provision.script")?,
        },
        console: ConsoleSettings {
            multiplexer: read.word("console.multiplexer", Multiplexer::from_name)?,
            zmx_url: read.text("console.zmx_url")?,
            zmx_sha256: read.optional("console.zmx_sha256")?,
        },
        network: NetworkSettings {
            egress: read.word("network.egress", EgressMode::from_name)?,
            allow: read.list("network.allow")?,
            placement: read.word("network.placement", EgressPlacement::from_name)?,
            lan: read.bool("network.lan")?,
            preset_cidrs: read.bool("network.preset_cidrs")?,
            bridge: read.text("network.bridge")?,
            subnet: read.optional("network.subnet")?,
        },
        env: guest_env,
        mcp: McpSettings {
            prefix: read.text("mcp.prefix")?,
            default_image: read.optional("mcp.default_image")?,
            idle_stop_after: read.duration("mcp.idle_stop_after")?,
            hard_destroy_after: read.duration("mcp.hard_destroy_after")?,
            reap_interval: read.duration("mcp.reap_interval")?,
            exec_timeout_max: read.duration("mcp.exec_timeout_max")?,
            state_file: read.path("mcp.state_file")?,
            pid_file: read.path("mcp.pid_file")?,
            listen_addr: read.text("mcp.listen_addr")?,
            socket: read.path("mcp.socket")?,
            endpoint_path: read.text("mcp.endpoint_path")?,
            auth_token: read.optional("mcp.auth_token")?.map(Secret::new),
            allowed_hosts: read.list("mcp.allowed_hosts")?,
            allowed_origins: read.list("mcp.allowed_origins")?,
            max_sandboxes: read.number("mcp.max_sandboxes")?,
            egress_ceiling: read.optional_word("mcp.egress_ceiling", EgressMode::from_name)?,
            bases: bases::read(merged, &base_prefix, env, read.warnings)?,
            base_prefix,
        },
    })
}

/// Takes single keys out of the merged layers.
struct Reader<'a> {
    merged: &'a Merged,
    env: &'a Env<'a>,
    warnings: &'a mut Vec<Warning>,
}

impl Reader<'_> {
    fn get<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, ConfigError> {
        take(key, self.merged.get(key), read)
    }

    fn text(&self, key: &str) -> Result<String, ConfigError> {
        self.get(key, |value| value.as_str().map(str::to_owned))
    }

    fn text_or_default(&self, key: &str) -> Result<String, ConfigError> {
        match self.text(key)? {
            text if text.is_empty() => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                take(key, self.merged.default(key), text)
            }
            text => Ok(text),
        }
    }

    fn optional(&self, key: &str) -> Result<Option<String>, ConfigError> {
        Ok(Some(self.text(key)?).filter(|text| !text.is_empty()))
    }

    fn bool(&self, key: &str) -> Result<bool, ConfigError> {
        self.get(key, Value::as_bool)
    }

    /// A number, where 0 is unset.
    fn number(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        let number = |value: &Value| value.as_integer()?.try_into().ok();
        Ok(Some(self.get(key, number)?).filter(|number| *number != 0))
    }

    /// A port, where 0 is the default one.
    fn port(&self, key: &str) -> Result<u16, ConfigError> {
        let port = |value: &Value| value.as_integer()?.try_into().ok();
        match self.get(key, port)? {
            0 => take(key, self.merged.default(key), port),
            set => Ok(set),
        }
    }

    fn word<T>(&self, key: &str, from_name: fn(&str) -> Option<T>) -> Result<T, ConfigError> {
        self.get(key, |value| from_name(value.as_str()?))
    }

    fn optional_word<T>(
        &self,
        key: &str,
        from_name: fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(key, |value| match value.as_str()? {
            "" => Some(None),
            name => from_name(name).map(Some),
        })
    }

    fn duration(&self, key: &str) -> Result<Duration, ConfigError> {
        self.get(key, |value| duration::parse(value.as_str()?))
    }

    fn list(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        self.get(key, |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    fn paths(&mut self, key: &str) -> Result<Vec<PathBuf>, ConfigError> {
        let texts = self.list(key)?;
        let place = match self.merged.get(key) {
            Some(item) => item.place.clone(),
            None => return Err(no_default(key)),
        };
        let mut paths = Vec::with_capacity(texts.len());
        for text in texts {
            paths.push(path(key, &text, place.clone(), self.env, self.warnings)?);
        }
        Ok(paths)
    }

    fn path(&mut self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(text) = self.optional(key)? else {
            return Ok(None);
        };
        let place = match self.merged.get(key) {
            Some(item) => item.place.clone(),
            None => return Err(no_default(key)),
        };
        let is_default = place.origin == Origin::Default;
        match path(key, &text, place, self.env, self.warnings) {
            // Nobody asked for this path, so what can do without it goes on.
            Err(ConfigError::NoHome { .. }) if is_default => {
                self.warnings.push(Warning::Homeless {
                    key: key.to_owned(),
                    default: text,
                });
                Ok(None)
            }
            path => path.map(Some),
        }
    }
}

/// A path from the settings, with `~/` expanded unless a flag gave it: there
/// the shell has done so, or was told not to.
pub(super) fn path(
    key: &str,
    text: &str,
    place: Place,
    env: &Env<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<PathBuf, ConfigError> {
    let expanded = match &place.origin {
        Origin::Flag(_) => PathBuf::from(text),
        _ => paths::expand(text, env, &format!("{place}: {key} = {text:?}"))?,
    };
    if expanded.is_relative() && matches!(place.origin, Origin::File(_)) {
        warnings.push(Warning::RelativePath {
            place,
            key: key.to_owned(),
            path: text.to_owned(),
        });
    }
    Ok(expanded)
}

fn take<T>(
    name: &str,
    item: Option<&Item>,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<T, ConfigError> {
    let (Some(key), Some(item)) = (keys::find(name), item) else {
        return Err(no_default(name));
    };
    let value = &item.node.value;
    read(value).ok_or_else(|| refused(key, item.place.clone(), value))
}

fn no_default(key: &str) -> ConfigError {
    ConfigError::NoSuchKey {
        place: Place {
            origin: Origin::Default,
            line: None,
        },
        key: key.to_owned(),
    }
}

/// Every key with its value as shown and its layer.
pub(super) fn origins(merged: &Merged) -> Origins {
    let mut entries = Vec::new();
    for key in KEYS {
        let mut push = |name: String, value: &Value, item: &Item| {
            entries.push(Entry {
                key: name,
                value: value.to_string(),
                origin: item.place.origin.clone(),
            });
        };
        match key.kind {
            Kind::Env => merged.entries(key.name).for_each(|(name, item)| {
                let shown = guest_env::shown(&item.node.value);
                push(format!("{}.{name}", key.name), &shown, item);
            }),
            Kind::Bases => merged.entries(key.name).for_each(|(name, item)| {
                push(format!("{}.{name}", key.name), &item.node.value, item);
            }),
            _ => {
                if let Some(item) = merged.get(key.name) {
                    let value = &item.node.value;
                    let hidden = key.secret && value.as_str() != Some("");
                    let mask = Value::from(Secret::MASK);
                    push(
                        key.name.to_owned(),
                        if hidden { &mask } else { value },
                        item,
                    );
                }
            }
        }
    }
    Origins::new(entries)
}

/// Files of `settings` that others must not read, as path and what they hold.
pub(super) fn private_files(settings: &Settings) -> Vec<(&Path, &'static str)> {
    let incus = settings.incus.client_key.as_deref();
    let ssh = settings.ssh.key.as_deref();
    incus
        .map(|path| (path, "the private key of incus.client_key"))
        .into_iter()
        .chain(ssh.map(|path| (path, "the private key of ssh.key")))
        .collect()
}
