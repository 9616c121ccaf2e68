//! The settings file and the files it names: finding them, and who can read them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::test_support::{File, said, vars};
use super::*;

#[test]
fn files_with_secrets_that_others_can_read_are_named() {
    let file = File::new("[truenas]\napi_key = \"s3cret\"\n");
    let (config, key) = (file.path(), file.dir().join("key"));
    fs::write(&key, "k").unwrap();
    let key_text = key.to_str().unwrap();
    let env = [
        ("PIXELS_INCUS_CLIENT_KEY", key_text),
        ("PIXELS_SSH_KEY", key_text),
    ];
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };

    chmod(&config, 0o644);
    chmod(&key, 0o640);
    let loaded = file.load(&env, &Flags::default()).unwrap();
    let warning = |path: &Path, holds: &str, mode: &str| {
        let path = path.display();
        format!("{path} holds {holds} and others can read it (mode {mode}); run: chmod 600 {path}")
    };
    assert_eq!(
        said(&loaded),
        [
            warning(&config, "truenas.api_key", "0644"),
            warning(&key, "the private key of incus.client_key", "0640"),
            warning(&key, "the private key of ssh.key", "0640"),
        ]
    );

    chmod(&config, 0o600);
    chmod(&key, 0o400);
    assert_eq!(said(&file.load(&env, &Flags::default()).unwrap()), [""; 0]);

    let open = File::new("[truenas]\napi_key = \"\"\n");
    chmod(&open.path(), 0o644);
    let env = [("PIXELS_TRUENAS_API_KEY", "s3cret")];
    assert_eq!(said(&open.load(&env, &Flags::default()).unwrap()), [""; 0]);
}

#[test]
fn the_users_own_file_may_be_absent_and_a_named_one_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    let env = vars(&[("XDG_CONFIG_HOME", home), ("HOME", "/nowhere/ann")]);
    let load = |file: Option<&Path>| Settings::load(file, &env, &Flags::default());
    let own = dir.path().join("pixels/config.toml");

    let loaded = load(None).unwrap();
    assert_eq!(loaded.file, Some(own.clone()));
    let error = load(Some(&own)).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("config file {} does not exist", own.display())
    );

    fs::create_dir(own.parent().unwrap()).unwrap();
    symlink("gone", &own).unwrap();
    assert!(matches!(load(None), Err(ConfigError::Missing { .. })));
    fs::remove_file(&own).unwrap();

    fs::write(&own, "backend = \"truenas\"\n").unwrap();
    assert_eq!(load(None).unwrap().settings.backend, BackendKind::TrueNas);

    fs::write(&own, b"a = 1\nb = \"\xff\"\n").unwrap();
    let error = load(None).unwrap_err().to_string();
    let expected = format!("{}:2:6: the file is not valid UTF-8", own.display());
    assert_eq!(error, expected);

    fs::remove_file(&own).unwrap();
    fs::create_dir(&own).unwrap();
    let error = load(None).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read config file {}: ", own.display())));
}

#[test]
fn without_a_home_only_paths_that_need_it_fail() {
    let load = |env: &[(&str, &str)]| Settings::load(None, &vars(env), &Flags::default());
    let loaded = load(&[]).unwrap();
    assert_eq!(
        (loaded.file.clone(), loaded.settings.ssh.key.clone()),
        (None, None)
    );
    assert_eq!(
        said(&loaded),
        [
            "HOME is not set to an absolute path, so ssh.key stays unset instead of \
          ~/.ssh/id_ed25519"
        ]
    );
    assert!(loaded.settings.mcp.state_path(&vars(&[])).is_err());
    assert_eq!(said(&load(&[("PIXELS_SSH_KEY", "/k")]).unwrap()), [""; 0]);

    let error = load(&[("PIXELS_SSH_KEY", "~/k")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "PIXELS_SSH_KEY: ssh.key = \"~/k\" needs your home folder, but HOME is not set"
    );
}

#[test]
fn tildes_are_expanded_in_files_and_variables_and_not_in_flags() {
    let file = File::new("[incus]\nsocket = \"~/s\"\nserver_cert = \"certs/c\"\n");
    let mut flags = Flags::default();
    flags.set("mcp.pid_file", "~/p", "--pid-file");
    let env = [("PIXELS_MCP_STATE_FILE", "~/m")];
    let loaded = file.load(&env, &flags).unwrap();
    let settings = &loaded.settings;
    assert_eq!(
        settings.incus.socket.as_deref(),
        Some(Path::new("/nowhere/ann/s"))
    );
    assert_eq!(
        settings.mcp.state_file.as_deref(),
        Some(Path::new("/nowhere/ann/m"))
    );
    assert_eq!(settings.mcp.pid_file.as_deref(), Some(Path::new("~/p")));
    assert_eq!(
        settings.incus.server_cert.as_deref(),
        Some(Path::new("certs/c"))
    );
    let said = said(&loaded);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains(":3: incus.server_cert is the relative path \"certs/c\""));
}

#[test]
fn a_file_that_nobody_wrote_is_refused() {
    let file = File::new("");
    let text = fs::File::create(file.path()).unwrap();
    text.set_len((16 << 20) + 1).unwrap();
    let refused = file.load(&[], &Flags::default()).unwrap_err();
    let ConfigError::Unreadable { source, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);
}
