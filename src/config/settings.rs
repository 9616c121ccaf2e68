//! The settings: one row for each key, in the order of `config.example.toml`.
//! To add a key, add a row here, and its comment and default to that file:
//!
//! ```text
//! field ["key, if named otherwise"]: Type as KIND, "PIXELS_VARIABLE", empty_is_default;
//! ```
//!
//! The type determines the accepted values; `Option` also accepts `""` and 0
//! for unset. Other parts are optional: `as` restricts the values, the variable
//! can set the key, and `empty_is_default` accepts `""` and 0 for the default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::bases::Base;
use super::choices::{BackendKind, EgressPlacement, Multiplexer};
use super::guest_env::GuestEnv;
use super::key::Key;
use super::layer::Layers;
use super::origin::Result;
use super::setting::Setting;
use super::spanned_toml::Node;
use super::value_kind::{
    CPUS, DISK, HOST_PORT, INTERFACE, MEMORY, NAME_PREFIX, SUBNET, URL, URL_PATH, ValueKind,
};
use crate::egress::Mode;
use crate::model::NicKind;
use crate::secret::Secret;
use crate::user_dirs::{Env, NoHome, cache_dir};

macro_rules! sections {
    ($($(#[$doc:meta])* $section:ident $prefix:literal {$(
        $(#[$field_doc:meta])*
        $field:ident $([$name:literal])? : $type:ty
            $(as $kind:expr)? $(, $variable:literal)? $(, $flag:ident)?;
    )*})*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $section {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Setting for $section {
            const KEY: Key = Key::new(ValueKind::Bases);

            fn declare(_: &dyn Fn(Key) -> Key, keys: &mut Vec<Key>) {$(
                let row = |key| Key {
                    name: concat!($prefix, name!($field $($name)?)),
                    $(kind: $kind,)? $(variable: Some($variable),)? $($flag: true,)?
                    ..key
                };
                <$type>::declare(&row, keys);
            )*}

            fn read(_: &Node, layers: &mut Layers<'_>) -> Result<Self> {
                Ok(Self {$(
                    $field: layers.read(concat!($prefix, name!($field $($name)?)))?,
                )*})
            }
        }
    )*};
}

macro_rules! name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

sections! {
    Settings "" {
        backend: BackendKind, "PIXELS_BACKEND";
        incus: IncusSettings;
        truenas: TrueNasSettings;
        defaults: Defaults;
        ssh: SshSettings;
        checkpoint: CheckpointSettings;
        provision: ProvisionSettings;
        console: ConsoleSettings;
        network: NetworkSettings;
        env: GuestEnv;
        mcp: McpSettings;
    }

    IncusSettings "incus." {
        socket: Option<PathBuf>, "PIXELS_INCUS_SOCKET";
        remote: Option<String>, "PIXELS_INCUS_REMOTE";
        client_cert: Option<PathBuf>, "PIXELS_INCUS_CLIENT_CERT";
        client_key: Option<PathBuf>, "PIXELS_INCUS_CLIENT_KEY";
        server_cert: Option<PathBuf>, "PIXELS_INCUS_SERVER_CERT";
        project: Option<String>, "PIXELS_INCUS_PROJECT";
        image_server: String as URL, "PIXELS_INCUS_IMAGE_SERVER";
        insecure: bool, "PIXELS_INCUS_INSECURE";
    }

    TrueNasSettings "truenas." {
        host: Option<String>, "PIXELS_TRUENAS_HOST";
        /// Never 0.
        port: u16, "PIXELS_TRUENAS_PORT", empty_is_default;
        username: String, "PIXELS_TRUENAS_USERNAME";
        api_key: Option<Secret>, "PIXELS_TRUENAS_API_KEY";
        server_cert: Option<PathBuf>, "PIXELS_TRUENAS_SERVER_CERT";
        fingerprint: Option<String>, "PIXELS_TRUENAS_FINGERPRINT";
        insecure_skip_verify: bool, "PIXELS_TRUENAS_INSECURE";
    }

    Defaults "defaults." {
        image: String, "PIXELS_DEFAULT_IMAGE";
        cpu: Option<String> as CPUS, "PIXELS_DEFAULT_CPU";
        memory_mib ["memory"]: Option<u64> as MEMORY, "PIXELS_DEFAULT_MEMORY";
        disk_mib ["disk"]: Option<u64> as DISK, "PIXELS_DEFAULT_DISK";
        pool: Option<String>, "PIXELS_DEFAULT_POOL";
        nic_type: Option<NicKind>;
        parent: Option<String>;
        network: Option<String>;
        dns: Vec<String>;
    }

    SshSettings "ssh." {
        user: String, "PIXELS_SSH_USER";
        /// The private key. `None` also if the default needs an unset HOME.
        key: Option<PathBuf>, "PIXELS_SSH_KEY";
        strict_host_keys: bool, "PIXELS_SSH_STRICT_HOST_KEYS";
    }

    CheckpointSettings "checkpoint." {
        dataset_prefix: Option<String>, "PIXELS_CHECKPOINT_DATASET_PREFIX";
    }

    ProvisionSettings "provision." {
        enabled: bool, "PIXELS_PROVISION_ENABLED";
        devtools: bool, "PIXELS_PROVISION_DEVTOOLS";
        tools: Vec<String>;
        installer_url: String as URL, "PIXELS_PROVISION_INSTALLER_URL";
        ca_certs: Vec<PathBuf>;
        script: Option<PathBuf>, "PIXELS_PROVISION_SCRIPT";
    }

    ConsoleSettings "console." {
        multiplexer: Multiplexer, "PIXELS_CONSOLE_MULTIPLEXER";
        zmx_url: String as URL;
        zmx_sha256: Option<String>;
    }

    NetworkSettings "network." {
        egress: Mode, "PIXELS_NETWORK_EGRESS";
        allow: Vec<String>;
        placement: EgressPlacement, "PIXELS_NETWORK_PLACEMENT";
        lan: bool, "PIXELS_NETWORK_LAN";
        preset_cidrs: bool, "PIXELS_NETWORK_PRESET_CIDRS";
        bridge: String as INTERFACE, "PIXELS_NETWORK_BRIDGE";
        subnet: Option<String> as SUBNET, "PIXELS_NETWORK_SUBNET";
    }

    McpSettings "mcp." {
        prefix: String as NAME_PREFIX, "PIXELS_MCP_PREFIX";
        /// Never empty.
        base_prefix: String as NAME_PREFIX, "PIXELS_MCP_BASE_PREFIX", empty_is_default;
        default_image: Option<String>, "PIXELS_MCP_DEFAULT_IMAGE";
        idle_stop_after: Duration, "PIXELS_MCP_IDLE_STOP_AFTER";
        hard_destroy_after: Duration, "PIXELS_MCP_HARD_DESTROY_AFTER";
        reap_interval: Duration, "PIXELS_MCP_REAP_INTERVAL";
        exec_timeout_max: Duration, "PIXELS_MCP_EXEC_TIMEOUT_MAX";
        /// Use [`McpSettings::state_path`] to read this setting.
        state_file: Option<PathBuf>, "PIXELS_MCP_STATE_FILE";
        /// Use [`McpSettings::pid_path`] to read this setting.
        pid_file: Option<PathBuf>, "PIXELS_MCP_PID_FILE";
        listen_addr: String as HOST_PORT, "PIXELS_MCP_LISTEN_ADDR";
        socket: Option<PathBuf>, "PIXELS_MCP_SOCKET";
        endpoint_path: String as URL_PATH, "PIXELS_MCP_ENDPOINT_PATH";
        auth_token: Option<Secret>, "PIXELS_MCP_AUTH_TOKEN";
        allowed_hosts: Vec<String>;
        allowed_origins: Vec<String>;
        max_sandboxes: Option<u64> as ValueKind::Integer(0, 10_000, ""), "PIXELS_MCP_MAX_SANDBOXES";
        max_cpu: Option<u64> as ValueKind::Integer(0, 10_000, ""), "PIXELS_MCP_MAX_CPU";
        max_memory_mib ["max_memory"]: Option<u64> as MEMORY, "PIXELS_MCP_MAX_MEMORY";
        max_disk_mib ["max_disk"]: Option<u64> as DISK, "PIXELS_MCP_MAX_DISK";
        egress_ceiling: Option<Mode>, "PIXELS_MCP_EGRESS_CEILING";
        bases: BTreeMap<String, Base>;
    }
}

impl McpSettings {
    /// File with the sandbox records: `state_file`, or one in the cache folder.
    pub fn state_path(&self, env: &Env<'_>) -> Result<PathBuf, NoHome> {
        or_cached(self.state_file.as_ref(), "mcp-state.json", env)
    }

    /// The PID file: `pid_file`, or one in the cache folder.
    pub fn pid_path(&self, env: &Env<'_>) -> Result<PathBuf, NoHome> {
        or_cached(self.pid_file.as_ref(), "mcp.pid", env)
    }
}

fn or_cached(set: Option<&PathBuf>, name: &str, env: &Env<'_>) -> Result<PathBuf, NoHome> {
    set.map_or_else(|| Ok(cache_dir(env)?.join(name)), |path| Ok(path.clone()))
}
