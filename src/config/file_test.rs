//! The settings file, and the permissions of files with secrets.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::load_test::vars;
use super::*;

#[test]
fn file_with_a_secret_that_others_can_read_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let (config, key) = (dir.path().join("my config"), dir.path().join("key"));
    fs::write(&key, "k").unwrap();
    let key_path = key.to_str().unwrap();
    let env = vec![
        ("PIXELS_INCUS_CLIENT_KEY", key_path),
        ("PIXELS_MCP_AUTH_TOKEN", "t"),
    ];
    let warnings = |text: &str, config_mode, key_mode| {
        fs::write(&config, text).unwrap();
        for (file, mode) in [(&config, config_mode), (&key, key_mode)] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let loaded = Settings::load(Some(&config), &vars(&env), &Flags::default()).unwrap();
        Vec::from_iter(loaded.warnings.iter().map(ToString::to_string))
    };
    let (with_key, without_key) = ("truenas.api_key = 'k'", "truenas.api_key = ''");
    let config_path = config.to_str().unwrap();
    assert_eq!(
        warnings(with_key, 0o644, 0o640),
        [
            format!(
                "{config_path} contains truenas.api_key and other users can read it (mode 0644); \
                 run: chmod 600 '{config_path}'"
            ),
            format!(
                "{key_path} contains the private key of incus.client_key and other users can read \
                 it (mode 0640); run: chmod 600 {key_path}"
            ),
        ]
    );
    assert_eq!(warnings(with_key, 0o600, 0o400), [""; 0]);
    assert_eq!(warnings(without_key, 0o644, 0o400), [""; 0]);
}

#[test]
fn users_file_may_be_absent_and_a_named_file_may_not() {
    let dir = tempfile::tempdir().unwrap();
    let env = vec![("XDG_CONFIG_HOME", dir.path().to_str().unwrap())];
    let own = dir.path().join("pixels/config.toml");
    let load = |file: Option<&Path>| Settings::load(file, &vars(&env), &Flags::default());
    let error = |file: Option<&Path>| match load(file).unwrap_err() {
        ConfigError::Unreadable { file, source } if file == own => source.kind(),
        error => panic!("{error}"),
    };
    assert!(load(None).is_ok());
    assert_eq!(error(Some(&own)), ErrorKind::NotFound);
    fs::create_dir(own.parent().unwrap()).unwrap();
    symlink("gone", &own).unwrap();
    assert_eq!(error(None), ErrorKind::NotFound);
    fs::remove_file(&own).unwrap();

    fs::write(&own, "backend = 'truenas'").unwrap();
    assert_eq!(load(None).unwrap().settings.backend, BackendKind::TrueNas);
    fs::write(&own, b"a = 1\nb = \"\xff\"\n").unwrap();
    let problem = format!("{}:2:6: the file is not valid UTF-8", own.display());
    assert_eq!(load(None).unwrap_err().to_string(), problem);
    let file = fs::File::create(&own).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    assert_eq!(error(None), ErrorKind::FileTooLarge);
    fs::remove_file(&own).unwrap();
    fs::create_dir(&own).unwrap();
    assert_eq!(error(None), ErrorKind::IsADirectory);
}

#[test]
fn mcp_files_are_in_the_cache_folder_by_default() {
    let no_home = vars(&[("HOME", "")]);
    let loaded = Settings::load(None, &no_home, &Flags::default()).unwrap();
    let mcp = &loaded.settings.mcp;
    assert!(mcp.state_path(&no_home).is_err());
    let env = vars(&[("XDG_CACHE_HOME", "/cache")]);
    let (state, pid) = (mcp.state_path(&env).unwrap(), mcp.pid_path(&env).unwrap());
    assert_eq!(state, Path::new("/cache/pixels/mcp-state.json"));
    assert_eq!(pid, Path::new("/cache/pixels/mcp.pid"));
}
