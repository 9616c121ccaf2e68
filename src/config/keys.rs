//! The one table of settings: every key, what it takes, its variable.
//!
//! Variables, the check for unknown keys, the check of values and the listing
//! of origins are derived from it; defaults are in `config.example.toml`, in
//! the same order. To add a key: a row here, an entry there, a field in
//! `settings`.

pub use super::kind::Kind;
use super::settings::{BackendKind, EgressMode, EgressPlacement, Multiplexer, NicType};
use crate::model::LEAST_MEMORY;

/// One key of the settings.
#[derive(Debug)]
pub struct Key {
    /// Dotted, such as `network.egress`.
    pub name: &'static str,
    pub kind: Kind,
    pub variable: Option<&'static str>,
    /// The value must not be shown.
    pub secret: bool,
}

/// MiB whose number of bytes the server can still count.
const MAX_MIB: i64 = i64::MAX >> 20;
const MEMORY: Kind = Kind::Integer {
    least: (LEAST_MEMORY >> 20).cast_signed(),
    max: MAX_MIB,
    unit: " of MiB",
};

pub const KEYS: &[Key] = &[
    key(
        "backend",
        Kind::Choice(BackendKind::NAMES),
        "PIXELS_BACKEND",
    ),
    key("incus.socket", Kind::Path, "PIXELS_INCUS_SOCKET"),
    key("incus.remote", Kind::OptionalText, "PIXELS_INCUS_REMOTE"),
    key("incus.client_cert", Kind::Path, "PIXELS_INCUS_CLIENT_CERT"),
    key("incus.client_key", Kind::Path, "PIXELS_INCUS_CLIENT_KEY"),
    key("incus.server_cert", Kind::Path, "PIXELS_INCUS_SERVER_CERT"),
    key("incus.project", Kind::OptionalText, "PIXELS_INCUS_PROJECT"),
    key("incus.image_server", Kind::Url, "PIXELS_INCUS_IMAGE_SERVER"),
    key("incus.insecure", Kind::Bool, "PIXELS_INCUS_INSECURE"),
    key("truenas.host", Kind::OptionalText, "PIXELS_TRUENAS_HOST"),
    key(
        "truenas.port",
        number(u16::MAX as i64, ""),
        "PIXELS_TRUENAS_PORT",
    ),
    key("truenas.username", Kind::Text, "PIXELS_TRUENAS_USERNAME"),
    secret(
        "truenas.api_key",
        Kind::OptionalText,
        "PIXELS_TRUENAS_API_KEY",
    ),
    key(
        "truenas.server_cert",
        Kind::Path,
        "PIXELS_TRUENAS_SERVER_CERT",
    ),
    key(
        "truenas.fingerprint",
        Kind::OptionalText,
        "PIXELS_TRUENAS_FINGERPRINT",
    ),
    key(
        "truenas.insecure_skip_verify",
        Kind::Bool,
        "PIXELS_TRUENAS_INSECURE",
    ),
    key("defaults.image", Kind::Text, "PIXELS_DEFAULT_IMAGE"),
    key("defaults.cpu", Kind::Cpus, "PIXELS_DEFAULT_CPU"),
    key("defaults.memory", MEMORY, "PIXELS_DEFAULT_MEMORY"),
    key("defaults.pool", Kind::OptionalText, "PIXELS_DEFAULT_POOL"),
    plain("defaults.nic_type", Kind::OptionalChoice(NicType::NAMES)),
    plain("defaults.parent", Kind::OptionalText),
    plain("defaults.network", Kind::OptionalText),
    plain("defaults.dns", Kind::List),
    key("ssh.user", Kind::Text, "PIXELS_SSH_USER"),
    key("ssh.key", Kind::Path, "PIXELS_SSH_KEY"),
    key(
        "ssh.strict_host_keys",
        Kind::Bool,
        "PIXELS_SSH_STRICT_HOST_KEYS",
    ),
    key(
        "checkpoint.dataset_prefix",
        Kind::OptionalText,
        "PIXELS_CHECKPOINT_DATASET_PREFIX",
    ),
    key("provision.enabled", Kind::Bool, "PIXELS_PROVISION_ENABLED"),
    key(
        "provision.devtools",
        Kind::Bool,
        "PIXELS_PROVISION_DEVTOOLS",
    ),
    plain("provision.tools", Kind::List),
    key(
        "provision.installer_url",
        Kind::Url,
        "PIXELS_PROVISION_INSTALLER_URL",
    ),
    plain("provision.ca_certs", Kind::List),
    key("provision.script", Kind::Path, "PIXELS_PROVISION_SCRIPT"),
    key(
        "console.multiplexer",
        Kind::Choice(Multiplexer::NAMES),
        "PIXELS_CONSOLE_MULTIPLEXER",
    ),
    plain("console.zmx_url", Kind::Url),
    plain("console.zmx_sha256", Kind::OptionalText),
    key(
        "network.egress",
        Kind::Choice(EgressMode::NAMES),
        "PIXELS_NETWORK_EGRESS",
    ),
    plain("network.allow", Kind::List),
    key(
        "network.placement",
        Kind::Choice(EgressPlacement::NAMES),
        "PIXELS_NETWORK_PLACEMENT",
    ),
    key("network.lan", Kind::Bool, "PIXELS_NETWORK_LAN"),
    key(
        "network.preset_cidrs",
        Kind::Bool,
        "PIXELS_NETWORK_PRESET_CIDRS",
    ),
    key("network.bridge", Kind::Interface, "PIXELS_NETWORK_BRIDGE"),
    key("network.subnet", Kind::Subnet, "PIXELS_NETWORK_SUBNET"),
    plain("env", Kind::Env),
    key("mcp.prefix", Kind::NamePrefix, "PIXELS_MCP_PREFIX"),
    key(
        "mcp.base_prefix",
        Kind::NamePrefix,
        "PIXELS_MCP_BASE_PREFIX",
    ),
    key(
        "mcp.default_image",
        Kind::OptionalText,
        "PIXELS_MCP_DEFAULT_IMAGE",
    ),
    key(
        "mcp.idle_stop_after",
        Kind::Duration,
        "PIXELS_MCP_IDLE_STOP_AFTER",
    ),
    key(
        "mcp.hard_destroy_after",
        Kind::Duration,
        "PIXELS_MCP_HARD_DESTROY_AFTER",
    ),
    key(
        "mcp.reap_interval",
        Kind::Duration,
        "PIXELS_MCP_REAP_INTERVAL",
    ),
    key(
        "mcp.exec_timeout_max",
        Kind::Duration,
        "PIXELS_MCP_EXEC_TIMEOUT_MAX",
    ),
    key("mcp.state_file", Kind::Path, "PIXELS_MCP_STATE_FILE"),
    key("mcp.pid_file", Kind::Path, "PIXELS_MCP_PID_FILE"),
    key("mcp.listen_addr", Kind::Address, "PIXELS_MCP_LISTEN_ADDR"),
    key("mcp.socket", Kind::Path, "PIXELS_MCP_SOCKET"),
    key("mcp.endpoint_path", Kind::Route, "PIXELS_MCP_ENDPOINT_PATH"),
    secret(
        "mcp.auth_token",
        Kind::OptionalText,
        "PIXELS_MCP_AUTH_TOKEN",
    ),
    plain("mcp.allowed_hosts", Kind::List),
    plain("mcp.allowed_origins", Kind::List),
    key(
        "mcp.max_sandboxes",
        number(10_000, ""),
        "PIXELS_MCP_MAX_SANDBOXES",
    ),
    key(
        "mcp.egress_ceiling",
        Kind::OptionalChoice(EgressMode::NAMES),
        "PIXELS_MCP_EGRESS_CEILING",
    ),
    plain("mcp.bases", Kind::Bases),
];

const fn plain(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        variable: None,
        secret: false,
    }
}

const fn key(name: &'static str, kind: Kind, variable: &'static str) -> Key {
    Key {
        variable: Some(variable),
        ..plain(name, kind)
    }
}

const fn secret(name: &'static str, kind: Kind, variable: &'static str) -> Key {
    Key {
        secret: true,
        ..key(name, kind, variable)
    }
}

const fn number(max: i64, unit: &'static str) -> Kind {
    Kind::Integer {
        least: 0,
        max,
        unit,
    }
}

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether keys live in a table of this dotted name, as `incus` or `mcp`.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| {
        key.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The one of `known` that an unknown key was probably meant to be.
pub(super) fn nearest<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let closeness = |name: &str| {
        let whole = strsim::normalized_damerau_levenshtein(unknown, name);
        // A key in the wrong table is still recognised.
        let end = strsim::normalized_damerau_levenshtein(&last(unknown), &last(name));
        whole.max(0.9 * end)
    };
    known
        .into_iter()
        .map(|name| (closeness(name), name))
        .filter(|(closeness, _)| *closeness >= 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_unique_and_well_formed() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        let mut variables: Vec<_> = KEYS.iter().filter_map(|key| key.variable).collect();
        assert!(
            variables
                .iter()
                .all(|variable| variable.starts_with("PIXELS_"))
        );
        let (all_names, all_variables) = (names.len(), variables.len());
        names.sort_unstable();
        names.dedup();
        variables.sort_unstable();
        variables.dedup();
        assert_eq!((names.len(), variables.len()), (all_names, all_variables));
        assert!(names.iter().all(|name| !is_section(name)));
    }

    #[test]
    fn the_nearest_key_is_found_for_slips_and_wrong_tables() {
        let nearest = |unknown| nearest(unknown, KEYS.iter().map(|key| key.name));
        for (unknown, expected) in [
            ("network.egres", Some("network.egress")),
            ("networks.egress", Some("network.egress")),
            ("egress", Some("network.egress")),
            ("default.image", Some("defaults.image")),
            ("defaults.mem", Some("defaults.memory")),
            ("incus.api_key", Some("truenas.api_key")),
            ("Backend", Some("backend")),
            ("colour", None),
        ] {
            assert_eq!(nearest(unknown).as_deref(), expected, "{unknown}");
        }
    }
}
