//! The settings as the rest of the program takes them: typed, checked, with
//! `None` for what is unset. Built by `resolve`; no defaults are in here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::bases::Base;
use super::error::ConfigError;
use super::guest_env::GuestEnv;
use super::paths::{self, Env};
use crate::secret::Secret;

#[derive(Debug, Clone)]
pub struct Settings {
    pub backend: BackendKind,
    pub incus: IncusSettings,
    pub truenas: TrueNasSettings,
    pub defaults: Defaults,
    pub ssh: SshSettings,
    pub checkpoint: CheckpointSettings,
    pub provision: ProvisionSettings,
    pub console: ConsoleSettings,
    pub network: NetworkSettings,
    pub env: GuestEnv,
    pub mcp: McpSettings,
}

/// An enum whose variants are words in the settings.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            pub const NAMES: &'static [&'static str] = &[$($word),+];

            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(
    /// The kind of server pixels live on.
    BackendKind { Incus = "incus", TrueNas = "truenas" }
);

words!(
    /// How a pixel's network card is attached.
    NicType { Macvlan = "macvlan", Bridged = "bridged" }
);

words!(
    /// What a new pixel may reach.
    EgressMode {
        Unrestricted = "unrestricted",
        /// What agents need, and `network.allow`.
        Agent = "agent",
        /// `network.allow` alone.
        Allowlist = "allowlist",
    }
);

words!(
    /// Where policies are enforced.
    EgressPlacement {
        /// By a gateway, unless the settings name a network for the pixels.
        Auto = "auto",
        Gateway = "gateway",
        /// Inside each pixel, on the network it is put on.
        Pixel = "pixel",
    }
);

words!(
    /// What keeps the sessions of a console.
    Multiplexer {
        /// zmx where the pixel has it, else tmux.
        Auto = "auto",
        Zmx = "zmx",
        Tmux = "tmux",
        /// A plain shell that ends with the connection.
        None = "none",
    }
);

#[derive(Debug, Clone)]
pub struct ConsoleSettings {
    pub multiplexer: Multiplexer,
    /// `{arch}` stands for the pixel's architecture.
    pub zmx_url: String,
    pub zmx_sha256: Option<String>,
}

#[derive(Debug, Clone)]
pub struct IncusSettings {
    pub socket: Option<PathBuf>,
    /// Wins over `socket`.
    pub remote: Option<String>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub server_cert: Option<PathBuf>,
    pub project: Option<String>,
    pub image_server: String,
    /// Accept any server certificate.
    pub insecure: bool,
}

#[derive(Debug, Clone)]
pub struct TrueNasSettings {
    pub host: Option<String>,
    /// Never 0.
    pub port: u16,
    pub username: String,
    pub api_key: Option<Secret>,
    pub server_cert: Option<PathBuf>,
    pub fingerprint: Option<String>,
    /// Accept any server certificate.
    pub insecure_skip_verify: bool,
}

#[derive(Debug, Clone)]
pub struct Defaults {
    pub image: String,
    pub cpu: Option<String>,
    pub memory_mib: Option<u64>,
    pub pool: Option<String>,
    pub nic_type: Option<NicType>,
    pub parent: Option<String>,
    pub network: Option<String>,
    pub dns: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct SshSettings {
    pub user: String,
    /// The private key. `None` when set to nothing, and when the default is
    /// in force but the home folder is not known.
    pub key: Option<PathBuf>,
    pub strict_host_keys: bool,
}

#[derive(Debug, Clone)]
pub struct CheckpointSettings {
    pub dataset_prefix: Option<String>,
}

#[derive(Debug, Clone)]
pub struct ProvisionSettings {
    pub enabled: bool,
    pub devtools: bool,
    /// As mise names them, each with an optional `@version`.
    pub tools: Vec<String>,
    pub installer_url: String,
    pub ca_certs: Vec<PathBuf>,
    pub script: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct NetworkSettings {
    pub egress: EgressMode,
    pub allow: Vec<String>,
    pub placement: EgressPlacement,
    /// Private networks too, for pixels that are unrestricted.
    pub lan: bool,
    /// The preset's wide address ranges too.
    pub preset_cidrs: bool,
    /// The segment of the pixels behind their gateway.
    pub bridge: String,
    /// Of that segment; taken when its gateway is made. Unset, it goes by the bridge.
    pub subnet: Option<String>,
}

#[derive(Debug, Clone)]
pub struct McpSettings {
    pub prefix: String,
    /// Never empty.
    pub base_prefix: String,
    /// Unset, `defaults.image` is meant.
    pub default_image: Option<String>,
    pub idle_stop_after: Duration,
    pub hard_destroy_after: Duration,
    pub reap_interval: Duration,
    pub exec_timeout_max: Duration,
    /// Unset, [`McpSettings::state_path`] knows the place.
    pub state_file: Option<PathBuf>,
    /// Unset, [`McpSettings::pid_path`] knows the place.
    pub pid_file: Option<PathBuf>,
    /// `host:port`, where the host may be a name.
    pub listen_addr: String,
    /// A Unix socket beside it.
    pub socket: Option<PathBuf>,
    /// Begins with a slash.
    pub endpoint_path: String,
    pub auth_token: Option<Secret>,
    pub allowed_hosts: Vec<String>,
    pub allowed_origins: Vec<String>,
    /// `None`: as many as the server bears.
    pub max_sandboxes: Option<u64>,
    /// Unset, `network.egress` is.
    pub egress_ceiling: Option<EgressMode>,
    pub bases: BTreeMap<String, Base>,
}

impl McpSettings {
    /// Where sandboxes are recorded: `state_file`, or its place in the cache folder.
    pub fn state_path(&self, env: &Env<'_>) -> Result<PathBuf, ConfigError> {
        in_cache(self.state_file.as_ref(), "mcp-state.json", env)
    }

    /// The pid file: `pid_file`, or its place in the cache folder.
    pub fn pid_path(&self, env: &Env<'_>) -> Result<PathBuf, ConfigError> {
        in_cache(self.pid_file.as_ref(), "mcp.pid", env)
    }
}

fn in_cache(set: Option<&PathBuf>, name: &str, env: &Env<'_>) -> Result<PathBuf, ConfigError> {
    match set {
        Some(path) => Ok(path.clone()),
        None => Ok(paths::cache_dir(env)?.join(name)),
    }
}
