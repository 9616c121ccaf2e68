//! Loading settings: files, variables, messages, effective values and typed
//! settings.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const CASES: &str = include_str!("../../tests/config/cases.txt");

/// An environment of these variables, with a default HOME.
pub fn vars(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    move |name| {
        let mut pairs = pairs.iter().chain(&[("HOME", "/home/ann")]);
        let found = pairs.find(|(variable, _)| *variable == name);
        found.map(|(_, value)| value.into())
    }
}

/// Loads `text` as the settings file.
pub fn load(text: &str, env: &[(&str, &str)], flags: &Flags) -> Result<Loaded, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    Settings::load(Some(file.path()), &vars(env), flags)
}

#[test]
fn cases_have_their_results() {
    let (mut settings, mut results) = (Vec::new(), Vec::new());
    let is_case = |line: &&str| !line.is_empty() && !line.starts_with(['#', '?']);
    for line in CASES.lines().filter(is_case).chain(["end"]) {
        let (setting, result) = line.split_once("=> ").unwrap_or((line, ""));
        if !setting.is_empty() && !results.is_empty() {
            check(&settings, &results);
            (settings, results) = (Vec::new(), Vec::new());
        }
        settings.push(setting.trim_end());
        results.extend(Some(result).filter(|result| !result.is_empty()));
    }
}

fn check(settings: &[&str], results: &[&str]) {
    let (mut text, mut env, mut flags) = (String::new(), Vec::new(), Flags::default());
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    for line in settings {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match (&words[..], line.split_once('=')) {
            (&[flag, key, value], _) if flag.starts_with('-') => flags.set(key, value, flag),
            (_, Some((name, value))) if is_name(name) => env.push((name, value)),
            _ => text += &format!("{line}\n"),
        }
    }
    let (mut messages, mut facts) = (Vec::new(), String::new());
    match load(&text, &env, &flags) {
        Err(error) => messages.push(error.to_string()),
        Ok(loaded) => {
            messages.extend(loaded.warnings.iter().map(ToString::to_string));
            facts = format!("{loaded:?}\n");
            for EffectiveSetting { key, value, origin } in &loaded.effective {
                facts += &format!("{key} = {value} ({origin})\n");
            }
            assert!(!facts.contains("s3cret"), "{facts}");
            let guest = loaded.settings.env.resolve(&vars(&env)).unwrap();
            facts += &format!("image {:?}\nsession {:?}\n", guest.image, guest.session);
        }
    }
    let case = format!("{settings:#?}\n{messages:#?}");
    assert!(!messages.concat().contains("s3cret"), "{case}");
    // The rest of the message starts with the position in the file.
    let without_path = |message: &String| match message.split_once(':') {
        Some((path, rest)) if path.starts_with('/') => rest.to_owned(),
        _ => message.clone(),
    };
    let mut messages = messages.iter().map(without_path);
    let mut message = messages.next();
    for result in results {
        if message
            .as_ref()
            .is_some_and(|message| message.starts_with(result))
        {
            message = messages.next();
        } else {
            assert!(facts.contains(result), "{result}\n{case}\n{facts}");
        }
    }
    assert_eq!(message, None, "{case}");
}

#[test]
fn keys_accept_and_reject_these_values() {
    for line in CASES.lines().filter_map(|line| line.strip_prefix("? ")) {
        let (key, values) = line.split_once(": ").unwrap();
        let (accepted, rejected) = values.split_once(" | ").unwrap();
        for (values, is_accepted) in [(accepted, true), (rejected, false)] {
            for value in values.split(' ') {
                let loaded = load(&format!("{key} = {value}"), &[], &Flags::default());
                assert_eq!(loaded.is_ok(), is_accepted, "{key} = {value}");
            }
        }
    }
}

#[test]
fn every_variable_sets_its_key() {
    let samples = "s T 777 7s localhost:7 /s 10.7.0.0/16 http://s seven agent tmux gateway truenas";
    for key in KEYS.iter().filter(|key| key.variable.is_some()) {
        let accepts = |text: &&str| key.kind.accepts(&key.kind.parse_variable(text));
        let variable = key.variable.unwrap();
        let sample = samples.split(' ').find(accepts).unwrap();
        let loaded = load("", &[(variable, sample)], &Flags::default()).unwrap();
        let mut settings = loaded.effective.iter();
        let setting = settings.find(|setting| setting.key == key.name).unwrap();
        let value = key.kind.masked(&key.kind.parse_variable(sample));
        assert_eq!(setting.origin, Origin::Env(variable));
        assert_eq!(setting.value, value, "{variable}");
    }
}

#[test]
fn variable_that_is_not_utf8_is_an_error_if_needed() {
    let bytes = |_: &str| Some(OsString::from_vec(vec![b'/', 0xff]));
    let loaded = load("env = { A = { forward = true } }", &[], &Flags::default()).unwrap();
    let resolved = loaded.settings.env.resolve(&bytes);
    let error = resolved.err().unwrap().to_string();
    assert!(error.ends_with(":1:9: env.A takes the value of A, which is not valid UTF-8"));
    let error = Settings::load(Some(Path::new("/dev/null")), &bytes, &Flags::default());
    assert_eq!(
        error.unwrap_err().to_string(),
        "PIXELS_BACKEND: backend is not valid UTF-8"
    );
}

#[test]
fn secret_file_that_others_can_read_causes_a_warning() {
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
    let warning = |path: &str, secret: &str, mode: &str, run: &str| {
        format!("{path} contains {secret} and other users can read it (mode {mode}); run: {run}")
    };
    let (with_key, without_key) = ("truenas.api_key = 'k'", "truenas.api_key = ''");
    let config_path = config.to_str().unwrap();
    let config_run = format!("chmod 600 '{config_path}'");
    let key_run = format!("chmod 600 {key_path}");
    let secret = "the private key of incus.client_key";
    let expected = [
        warning(config_path, "truenas.api_key", "0644", &config_run),
        warning(key_path, secret, "0640", &key_run),
    ];
    assert_eq!(warnings(with_key, 0o644, 0o640), expected);
    assert_eq!(warnings(with_key, 0o600, 0o400), [""; 0]);
    assert_eq!(warnings(without_key, 0o644, 0o400), [""; 0]);
}

#[test]
fn missing_named_file_is_an_error_and_missing_user_file_is_not() {
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
