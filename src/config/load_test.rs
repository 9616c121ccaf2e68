//! Loading as a whole: which layer wins, what is an error, what is a warning.

use std::path::Path;

use super::keys::{KEYS, Kind};
use super::test_support::{File, load, problem, said, vars};
use super::*;

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded.origins.get(key).unwrap().origin.to_string()
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = File::new(
        "backend = \"truenas\"\n[defaults]\nimage = \"f\"\ncpu = \"8\"\nmemory = 64\n\
         [network]\nallow = [\"a.example\"]\n",
    );
    let env = [
        ("PIXELS_DEFAULT_IMAGE", "e"),
        ("PIXELS_DEFAULT_CPU", "4"),
        ("PIXELS_BACKEND", ""),
    ];
    let mut flags = Flags::default();
    flags.set("defaults.image", "first", "--image");
    flags.set("defaults.image", "second", "--image");
    flags.set("network.allow", vec!["b.example"], "--allow");
    let loaded = file.load(&env, &flags).unwrap();

    let settings = &loaded.settings;
    assert_eq!(settings.backend, BackendKind::TrueNas);
    assert_eq!(settings.defaults.image, "second");
    assert_eq!(settings.defaults.cpu.as_deref(), Some("4"));
    assert_eq!(settings.defaults.memory_mib, Some(64));
    assert_eq!(settings.network.allow, ["b.example"]);
    assert_eq!(settings.network.egress, EgressMode::Unrestricted);

    let in_file = format!("file {}", file.path().display());
    for (key, expected) in [
        ("backend", in_file.as_str()),
        ("defaults.image", "flag --image"),
        ("defaults.cpu", "env PIXELS_DEFAULT_CPU"),
        ("defaults.memory", in_file.as_str()),
        ("network.allow", "flag --allow"),
        ("network.egress", "default"),
    ] {
        assert_eq!(origin(&loaded, key), expected, "{key}");
    }
    let entry = loaded.origins.get("defaults.image").unwrap();
    assert_eq!(
        serde_json::to_string(entry).unwrap(),
        r#"{"key":"defaults.image","value":"second","origin":"flag --image"}"#
    );
}

#[test]
fn every_variable_reaches_its_key() {
    for key in KEYS {
        let Some(variable) = key.variable else {
            continue;
        };
        let text = match key.kind {
            Kind::Bool => "T",
            Kind::Cpus => "0-7",
            Kind::Integer { least, .. } if least > 0 => "77",
            Kind::Integer { .. } => "7",
            Kind::Duration => "7s",
            Kind::Choice(names) | Kind::OptionalChoice(names) => names[names.len() - 1],
            Kind::Address => "localhost:7",
            Kind::Route => "/seven",
            Kind::Subnet => "10.7.0.0/16",
            Kind::Url => "https://seven.example",
            Kind::Path => "~/seven",
            _ => "seven",
        };
        let loaded = load("", &[(variable, text)]);
        let entry = loaded.origins.get(key.name).unwrap();
        assert_eq!(entry.origin, Origin::Env(variable.into()));
        match key.kind {
            Kind::Bool => assert_eq!(entry.value, "true"),
            Kind::Integer { .. } => assert_eq!(entry.value, text),
            _ if key.secret => assert_eq!(entry.value, "\"***\""),
            _ => assert_eq!(entry.value, format!("{text:?}")),
        }
        if key.kind == Kind::Path {
            let settings = format!("{:?}", loaded.settings);
            assert!(settings.contains("\"/nowhere/ann/seven\""), "{}", key.name);
        }
    }
}

#[test]
fn bad_values_name_place_key_value_and_what_is_allowed() {
    for (text, expected) in [
        (
            "\n[network]\negress = \"open\"\n",
            ":3: network.egress is \"open\", but must be \"unrestricted\" or \"agent\" or \
             \"allowlist\"",
        ),
        (
            "backend = 1\n",
            ":1: backend is 1, but must be \"incus\" or \"truenas\"",
        ),
        (
            "[defaults]\nmemory = \"2G\"\n",
            ":2: defaults.memory is \"2G\", but must be a whole number of MiB from 16 to",
        ),
        (
            "[defaults]\nmemory = 4\n",
            ":2: defaults.memory is 4, but must be a whole number of MiB from 16 to",
        ),
        (
            "[defaults]\nmemory = -1\n",
            ":2: defaults.memory is -1, but must be a whole number",
        ),
        (
            "[defaults]\ncpu = 2\n",
            ":2: defaults.cpu is 2, but must be a text with a count",
        ),
        (
            "[defaults]\nimage = \"\"\n",
            ":2: defaults.image is \"\", but must be a text that is",
        ),
        (
            "[defaults]\nnic_type = \"sriov\"\n",
            ":2: defaults.nic_type is \"sriov\", but must be \"macvlan\" or \"bridged\" (\"\" for",
        ),
        (
            "[truenas]\nport = 65536\n",
            ":2: truenas.port is 65536, but must be a whole number from",
        ),
        (
            "[incus]\ninsecure = \"true\"\n",
            ":2: incus.insecure is \"true\", but must be true or",
        ),
        (
            "[incus]\nimage_server = \"x\"\n",
            ":2: incus.image_server is \"x\", but must be an http",
        ),
        (
            "[network]\nallow = \"a\"\n",
            ":2: network.allow is \"a\", but must be a list",
        ),
        (
            "[network]\nallow = [\"a,b\"]\n",
            ":2: network.allow is [\"a,b\"], but must be a list",
        ),
        (
            "[mcp]\nreap_interval = \"0s\"\n",
            ":2: mcp.reap_interval is \"0s\", but must be a dur",
        ),
        (
            "[mcp]\nreap_interval = \"-1m\"\n",
            ":2: mcp.reap_interval is \"-1m\", but must be",
        ),
        (
            "[mcp]\nidle_stop_after = 60\n",
            ":2: mcp.idle_stop_after is 60, but must be a duration",
        ),
        (
            "[mcp]\nendpoint_path = \"mcp\"\n",
            ":2: mcp.endpoint_path is \"mcp\", but must be",
        ),
        (
            "[mcp]\nlisten_addr = \"8765\"\n",
            ":2: mcp.listen_addr is \"8765\", but must be host",
        ),
        (
            "incus = \"x\"\n",
            ":1: incus is of type string, but must be a table",
        ),
        (
            "[[mcp]]\nprefix = \"x\"\n",
            ":1: mcp is of type array, but must be a table",
        ),
        (
            "env = 1\n",
            ":1: env is of type integer, but must be a table",
        ),
        (
            "[defaults.image]\nx = 1\n",
            ":1: defaults.image is { x = 1 }, but must be a text",
        ),
    ] {
        let file = File::new(text);
        let error = file.load(&[], &Flags::default()).unwrap_err().to_string();
        let expected = format!("{}{expected}", file.path().display());
        assert!(error.starts_with(&expected), "{error}\n{expected}");
    }
}

#[test]
fn bad_variables_and_flags_are_named() {
    for (variable, text, expected) in [
        (
            "PIXELS_PROVISION_ENABLED",
            "yes",
            "provision.enabled is \"yes\", but must be true or",
        ),
        (
            "PIXELS_DEFAULT_MEMORY",
            "2G",
            "defaults.memory is \"2G\", but must be a whole number",
        ),
        (
            "PIXELS_BACKEND",
            "docker",
            "backend is \"docker\", but must be \"incus\" or",
        ),
        (
            "PIXELS_MCP_REAP_INTERVAL",
            "0",
            "mcp.reap_interval is \"0\", but must be a duration",
        ),
    ] {
        let error = problem("", &[(variable, text)]);
        assert!(
            error.starts_with(&format!("{variable}: {expected}")),
            "{error}"
        );
    }
    let file = File::new("");
    let mut flags = Flags::default();
    flags.set("network.egress", "open", "--egress");
    let error = file.load(&[], &flags).unwrap_err().to_string();
    assert!(
        error.starts_with("--egress: network.egress is \"open\", but"),
        "{error}"
    );

    let mut flags = Flags::default();
    flags.set("network.egres", "agent", "--egress");
    let error = file.load(&[], &flags).unwrap_err().to_string();
    assert_eq!(error, "--egress: \"network.egres\" is not a settings key");
}

#[test]
fn a_bad_value_is_an_error_even_where_a_stronger_layer_hides_it() {
    let error = problem("backend = \"docker\"\n", &[("PIXELS_BACKEND", "incus")]);
    assert!(error.contains(":1: backend is \"docker\""), "{error}");
}

#[test]
fn a_variable_that_is_not_text_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let env = |name: &str| (name == "PIXELS_SSH_KEY").then(|| OsString::from_vec(vec![b'/', 0xff]));
    let error = Settings::load(None, &env, &Flags::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("PIXELS_SSH_KEY: ssh.key is"),
        "{error}"
    );
}

#[test]
fn secrets_are_in_no_message() {
    let loaded = load("[truenas]\napi_key = \"s3cret\"\n", &[]);
    let key = loaded.settings.truenas.api_key.clone().unwrap();
    assert_eq!(key.expose(), "s3cret");
    assert!(!format!("{loaded:?}").contains("s3cret"));
    assert_eq!(
        loaded.origins.get("truenas.api_key").unwrap().value,
        "\"***\""
    );

    let error = problem("[truenas]\napi_key = [\"s3cret\"]\n", &[]);
    assert!(
        error.contains(":2: truenas.api_key is ***, but must be a text"),
        "{error}"
    );
    let error = problem("[truenas]\napi_key = s3cret\n", &[]);
    assert!(
        error.contains(":2:11: ") && !error.contains("s3cret"),
        "{error}"
    );
}

#[test]
fn unknown_keys_are_named_with_file_line_and_the_nearest_known_one() {
    let file = File::new(
        "colour = 1\n[incus]\nsokcet = \"/s\"\n[networks]\negress = \"agent\"\n[empty]\n\
         [mcp.limits]\ncpu = 1\n",
    );
    let loaded = file.load(&[], &Flags::default()).unwrap();
    let path = file.path();
    let path = path.display();
    assert_eq!(
        said(&loaded),
        [
            format!("{path}:1: unknown key colour is ignored"),
            format!("{path}:6: unknown key empty is ignored"),
            format!("{path}:3: unknown key incus.sokcet is ignored; did you mean incus.socket?"),
            format!("{path}:8: unknown key mcp.limits.cpu is ignored; did you mean defaults.cpu?"),
            format!(
                "{path}:5: unknown key networks.egress is ignored; did you mean network.egress?"
            ),
        ]
    );
    assert_eq!(loaded.settings.network.egress, EgressMode::Unrestricted);
}

#[test]
fn unset_numbers_and_prefixes_fall_back_to_the_default() {
    let loaded = load(
        "[truenas]\nport = 0\n[defaults]\nmemory = 0\ncpu = \"\"\n[mcp]\nbase_prefix = \"\"\n",
        &[("XDG_CACHE_HOME", "/cache")],
    );
    let settings = loaded.settings;
    assert_eq!(settings.truenas.port, 443);
    assert_eq!(
        (settings.defaults.memory_mib, settings.defaults.cpu),
        (None, None)
    );
    assert_eq!(settings.mcp.base_prefix, "base-");
    let env = vars(&[("XDG_CACHE_HOME", "/cache")]);
    let state = settings.mcp.state_path(&env).unwrap();
    assert_eq!(state, Path::new("/cache/pixels/mcp-state.json"));
    assert_eq!(
        settings.mcp.pid_path(&env).unwrap(),
        Path::new("/cache/pixels/mcp.pid")
    );
}
