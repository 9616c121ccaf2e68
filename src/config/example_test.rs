//! `config.example.toml` is the default layer and the documentation of every
//! key; these tests keep it so.

use std::path::Path;
use std::time::Duration;

use super::keys::{KEYS, Kind};
use super::test_support::{load, vars};
use super::*;

/// Dotted keys of the example in file order, each with the comment above it.
fn documented() -> Vec<(String, String)> {
    let mut section = String::new();
    let mut comment = String::new();
    let mut found = Vec::new();
    for line in EXAMPLE.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            if matches!(section.as_str(), "env." | "mcp.bases.dev.") {
                let key = section.trim_end_matches('.').trim_end_matches(".dev");
                found.push((key.to_owned(), comment.clone()));
            }
        } else if let Some((name, _)) = line.split_once(" = ")
            && !section.starts_with("mcp.bases.")
        {
            found.push((format!("{section}{name}"), comment.clone()));
        }
        comment.clear();
    }
    found
}

#[test]
fn every_key_is_in_the_example_in_the_same_order_and_vice_versa() {
    let documented: Vec<_> = documented().into_iter().map(|(key, _)| key).collect();
    let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(documented, known);
}

#[test]
fn every_key_has_a_comment_that_names_its_variable() {
    for (name, comment) in documented() {
        let key = keys::find(&name).unwrap();
        let variables: Vec<_> = comment
            .split(|c: char| !c.is_ascii_uppercase() && c != '_')
            .filter(|word| word.starts_with("PIXELS_"))
            // The heading speaks of `PIXELS_*`.
            .filter(|word| *word != "PIXELS_")
            .collect();
        assert_eq!(variables, Vec::from_iter(key.variable), "{name}");
        assert!(comment.len() > 10, "{name}");
    }
}

#[test]
fn every_key_is_listed_with_its_default() {
    let loaded = load("", &[]);
    for key in KEYS {
        let listed = match key.kind {
            Kind::Env => continue,
            Kind::Bases => loaded.origins.get("mcp.bases.dev"),
            _ => loaded.origins.get(key.name),
        };
        assert_eq!(listed.unwrap().origin, Origin::Default, "{}", key.name);
    }
    assert_eq!(loaded.warnings, []);
}

#[test]
fn the_defaults_are_these() {
    let settings = load("", &[("HOME", "/home/ann")]).settings;
    assert_eq!(settings.backend, BackendKind::Incus);

    let incus = settings.incus;
    let unset = [
        incus.socket,
        incus.client_cert,
        incus.client_key,
        incus.server_cert,
    ];
    assert_eq!(unset, [None, None, None, None]);
    assert_eq!((incus.remote, incus.project), (None, None));
    assert_eq!(incus.image_server, "https://images.linuxcontainers.org");
    assert!(!incus.insecure);

    let truenas = settings.truenas;
    assert_eq!((truenas.host, truenas.api_key), (None, None));
    assert_eq!((truenas.port, truenas.username.as_str()), (443, "root"));
    assert_eq!((truenas.server_cert, truenas.fingerprint), (None, None));
    assert!(!truenas.insecure_skip_verify);

    let defaults = settings.defaults;
    assert_eq!(defaults.image, "ubuntu/24.04");
    assert_eq!(defaults.cpu.as_deref(), Some("2"));
    assert_eq!(defaults.memory_mib, Some(2048));
    assert_eq!((defaults.pool, defaults.nic_type), (None, None));
    assert_eq!((defaults.parent, defaults.network), (None, None));
    assert!(defaults.dns.is_empty());

    assert_eq!(settings.ssh.user, "pixel");
    let key = settings.ssh.key.unwrap();
    assert_eq!(key, Path::new("/home/ann/.ssh/id_ed25519"));
    assert!(settings.ssh.strict_host_keys);
    assert_eq!(settings.checkpoint.dataset_prefix, None);
    assert!(settings.provision.enabled && settings.provision.devtools);
    assert_eq!(settings.network.egress, EgressMode::Unrestricted);
    assert!(settings.network.allow.is_empty());
    let variables = settings.env.resolve(&vars(&[])).unwrap();
    assert_eq!(variables, GuestVariables::default());

    let mcp = settings.mcp;
    assert_eq!(
        (mcp.prefix.as_str(), mcp.base_prefix.as_str()),
        ("mcp-", "base-")
    );
    assert_eq!(mcp.default_image, None);
    assert_eq!(mcp.idle_stop_after, Duration::from_secs(3600));
    assert_eq!(mcp.hard_destroy_after, Duration::from_secs(24 * 3600));
    assert_eq!(mcp.reap_interval, Duration::from_secs(60));
    assert_eq!(mcp.exec_timeout_max, Duration::from_secs(600));
    assert_eq!((mcp.state_file, mcp.pid_file), (None, None));
    assert_eq!(mcp.listen_addr, "127.0.0.1:8765");
    assert_eq!(mcp.endpoint_path, "/mcp");
    assert_eq!((mcp.auth_token, mcp.socket), (None, None));
    assert!(mcp.allowed_hosts.is_empty() && mcp.allowed_origins.is_empty());
    assert_eq!((mcp.max_sandboxes, mcp.egress_ceiling), (Some(20), None));
}

#[test]
fn a_copy_of_the_example_changes_nothing() {
    let plain = load("", &[]);
    let copied = load(EXAMPLE, &[]);
    assert_eq!(copied.warnings, []);
    assert_eq!(
        format!("{:?}", copied.settings),
        format!("{:?}", plain.settings)
    );
}

#[test]
fn the_commented_examples_work_when_uncommented() {
    let is_example = |rest: &&str| {
        let name = rest.split(" = ").next().unwrap_or_default();
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (rest.contains(" = ") && name.chars().all(bare)) || rest.starts_with('[')
    };
    let mut examples = 0;
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let example = line.strip_prefix("# ").filter(is_example);
        examples += usize::from(example.is_some());
        text.push_str(example.unwrap_or(line));
        text.push('\n');
    }
    assert_eq!(examples, 9);
    let env = [("HTTP_PROXY", "http://p"), ("GITHUB_TOKEN", "t")];
    let loaded = load(&text, &env);
    assert_eq!(loaded.warnings, []);
    assert!(loaded.settings.mcp.bases.contains_key("rust"));
    let variables = loaded.settings.env.resolve(&vars(&env)).unwrap();
    assert_eq!(
        Vec::from_iter(variables.image.keys()),
        ["EDITOR", "HTTP_PROXY"]
    );
    assert_eq!(
        Vec::from_iter(variables.session.keys()),
        ["GITHUB_TOKEN", "TERM_PROGRAM"]
    );
}
